"""What runs in a Ray Train worker: the session that the training loop asks for, made of ray.train's verbs."""

import traceback
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from torch import Tensor, nn

from gen_ray.cluster.data.blocks import in_memory
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.training.device import reserved_device
from gen_ray.cluster.training.session import RunSession
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.inference.memory import is_out_of_memory
from gen_ray.engine.training.loop import fit
from gen_ray.errors import RunError, SharedError, UserError
from gen_ray.experiment import Experiment, parse
from gen_ray.family import Family
from gen_ray.storage.paths import place


class TrainSession(RunSession):
    """A rank of Ray Train V2."""

    def __init__(
        self, experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, *, cache: bool
    ) -> None:
        """Ask Ray which rank and device this is."""
        super().__init__(experiment, prepared, track, home)
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device, self.cache = reserved_device(), cache

    def rows(self, split: str) -> Tensor | None:
        """Return what the trainer was given of a split."""
        if not self.cache:
            return None
        return in_memory(ray.train.get_dataset_shard(split), self.prepared.rows[split], self.prepared.spec)

    def preemption_notice(self) -> bool:
        """Return whether Ray was told to drain a rank's machine, as when a spot instance is reclaimed."""
        return ray.train.get_preemption_info() is not None

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net on its device, under DDP where there are several ranks."""
        kwargs = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
        return ray.train.torch.prepare_model(net, move_to_device=self.device, parallel_strategy_kwargs=kwargs)


def open_session(task: Mapping[str, Any]) -> tuple[Experiment, Family, TrainSession]:
    """Return what a worker's task describes."""
    experiment, prepared = parse(task["experiment"]), Prepared.load(place(task["prepared"]))
    session = TrainSession(experiment, prepared, task["track"], place(task["home"]), cache=task["cache"])
    return experiment, experiment.model(prepared.spec), session


def error_report(error: Exception, experiment: Mapping[str, Any]) -> dict[str, str]:
    """Return message, reason and trace of what one rank raised."""
    message, reason = f"training stopped: {error}", type(error).__name__
    if isinstance(error, RunError | UserError):
        message, reason = str(error), getattr(error, "reason", "user")
    elif is_out_of_memory(error):
        size = experiment["data"]["batch_size"]
        message = f"out of memory at data.batch_size={size}: lower it, or split it by training.accumulate"
    return {"message": message, "reason": reason, "trace": traceback.format_exc()}


def is_group_failure(error: Exception) -> bool:
    """Return whether an error may be due to the death of another rank: collectives fail, or their group is gone."""
    if isinstance(error, ValueError):  # torch raises it for a group that Ray Train has destroyed already
        return "process group" in str(error)
    return isinstance(error, RuntimeError | ray.exceptions.RayError)


def train_worker(task: Mapping[str, Any]) -> dict[str, str]:
    """Train. Return what went wrong, as message and reason, where trying again would not mend it.

    What every rank raises is returned at once. What one rank alone raises has to break the others off: the tracker
    remembers it, the rank fails, and the workers that Ray starts in their place return it without another attempt.
    Ray alone would try every error again. Some errors may only say that the group ended, after another rank died.
    """
    track: RunLogger = task["track"]
    known = track.fault()
    if known:
        return known
    try:
        experiment, family, session = open_session(task)
        track.occupy(ray.util.get_current_placement_group())
        with closing(session):
            fit(experiment, family, session, until=task.get("until"))
    except SharedError as error:
        fault = {"reason": error.reason, "message": str(error)}
        if session.rank == 0:
            track.condemn(**fault)  # a driver that is to end has no time for the end of Ray Train
        return fault
    except Exception as error:
        if is_out_of_memory(error) or not is_group_failure(error):
            track.condemn(**error_report(error, task["experiment"]))
        raise
    finally:
        track.flush()
    return {}
