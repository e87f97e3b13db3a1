"""The training function of a Ray Train worker, and its implementation of the training loop's session."""

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
from gen_ray.cluster.nodes.device import reserved_device
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.training.session import RunSession
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.inference.memory import is_out_of_memory
from gen_ray.engine.training.loop import fit
from gen_ray.errors import RunError, SharedError, UserError
from gen_ray.experiment import Experiment, parse
from gen_ray.family import Family
from gen_ray.storage.paths import resolve


class TrainSession(RunSession):
    """The session of one rank of Ray Train V2."""

    def __init__(
        self, experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, *, cache: bool
    ) -> None:
        """Get rank and device from Ray; cache says whether the trainer passed the splits as datasets."""
        super().__init__(experiment, prepared, track, home)
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device, self.cache = reserved_device(), cache

    def rows(self, split: str) -> Tensor | None:
        """Return a split (N, *shape) from the trainer's dataset, or None if it is to be streamed."""
        if not self.cache:
            return None
        return in_memory(ray.train.get_dataset_shard(split), self.prepared.rows[split], self.prepared.spec)

    def preemption_notice(self) -> bool:
        """Return whether Ray is draining a rank's machine, for instance because a spot instance is reclaimed."""
        return ray.train.get_preemption_info() is not None

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net on its device, wrapped in DDP if there are several ranks."""
        kwargs = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
        return ray.train.torch.prepare_model(net, move_to_device=self.device, parallel_strategy_kwargs=kwargs)


def open_session(task: Mapping[str, Any]) -> tuple[Experiment, Family, TrainSession]:
    """Return experiment, family and session of a worker's task."""
    experiment, prepared = parse(task["experiment"]), Prepared.load(resolve(task["prepared"]))
    session = TrainSession(experiment, prepared, task["track"], resolve(task["home"]), cache=task["cache"])
    return experiment, experiment.model(prepared.spec), session


def error_report(error: Exception, experiment: Mapping[str, Any]) -> dict[str, str]:
    """Return message, reason and trace of one rank's error."""
    message, reason = f"training stopped: {error}", type(error).__name__
    if isinstance(error, RunError | UserError):
        message, reason = str(error), getattr(error, "reason", "user")
    elif is_out_of_memory(error):
        size = experiment["data"]["batch_size"]
        remedy = "lower it, or split batches by training.gradient_accumulation_steps"
        message = f"out of memory at data.batch_size={size}: {remedy}"
    return {"message": message, "reason": reason, "trace": traceback.format_exc()}


def is_group_failure(error: Exception) -> bool:
    """Return whether the death of another rank may have caused an error: collectives fail, or their group is gone."""
    if isinstance(error, ValueError):  # torch raises it for a group that Ray Train has destroyed already
        return "process group" in str(error)
    return isinstance(error, RuntimeError | ray.exceptions.RayError)


def train_worker(task: Mapping[str, Any]) -> dict[str, str]:
    """Train. Return message and reason of an error that a retry would not fix, or {}.

    An error that all ranks raise is returned at once. An error of a single rank must interrupt the others: it is stored
    in the logger actor, the rank fails, and the workers that Ray starts as replacements return the stored error without
    another attempt. By itself, Ray would retry after every error. Errors that may only result from the death of another
    rank are not stored.
    """
    track: RunLogger = task["track"]
    known = track.fault()
    if known:
        return known
    try:
        experiment, family, session = open_session(task)
        track.hold_placement_group(ray.util.get_current_placement_group())
        with closing(session):
            fit(experiment, family, session, until_epoch=task.get("until"))
    except SharedError as error:
        fault = {"reason": error.reason, "message": str(error)}
        if session.rank == 0:
            track.report_fatal(**fault)  # an interrupted driver cannot wait for Ray Train to end
        return fault
    except Exception as error:
        if is_out_of_memory(error) or not is_group_failure(error):
            track.report_fatal(**error_report(error, task["experiment"]))
        raise
    finally:
        track.flush()
    return {}
