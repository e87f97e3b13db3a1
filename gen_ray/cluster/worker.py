"""What runs in a Ray Train worker: the session that the training loop asks for, made of ray.train's verbs."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn

from gen_ray.cluster.data import Streamed, in_memory
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.batches import Batches, Cached
from gen_ray.engine.loop import fit
from gen_ray.engine.step import NonFiniteError
from gen_ray.experiment import Experiment, parse
from gen_ray.family import Family


class TrainSession:
    """engine.session.Session on Ray Train V2."""

    def __init__(self, experiment: Experiment, prepared: Prepared, tracker: Any, *, cache: bool) -> None:
        """Ask Ray which rank and device this is."""
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.experiment, self.prepared, self.tracker, self.cache = experiment, prepared, tracker, cache
        self.held: dict[str, Batches] = {}

    def batches(self, split: str) -> Batches:
        """Return a split: streamed once into this worker's memory, or anew every epoch where it is too large."""
        if split not in self.held:
            place = {
                "batch_size": self.experiment.data.batch_size,
                "seed": self.experiment.training.seed,
                "rank": self.rank,
                "world_size": self.world_size,
                "accumulate": self.experiment.training.accumulate,
            }
            if self.cache:
                shard = ray.train.get_dataset_shard(split)
                self.held[split] = Cached(in_memory(shard, self.prepared.rows[split], self.prepared.spec), **place)
            else:
                self.held[split] = Streamed(self.prepared.shards(split), **place)
        return self.held[split]

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net on its device, under DDP where there are several ranks."""
        kwargs = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
        return ray.train.torch.prepare_model(net, parallel_strategy_kwargs=kwargs)

    def sum(self, values: Tensor) -> Tensor:
        """Return values summed over the ranks."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send rank 0's metrics to the tracker; nobody waits for MLflow."""
        if self.rank == 0:
            self.tracker.log.remote(dict(metrics), step)

    def show(self, name: str, picture: np.ndarray, step: int) -> None:
        """Send a picture to the tracker."""
        self.tracker.show.remote(name, picture, step)

    def show_text(self, name: str, text: str, step: int) -> None:
        """Send a text to the tracker."""
        self.tracker.show_text.remote(name, text, step)

    def progress(self, done: int, total: int) -> None:
        """Tell the tracker how far the training is."""
        if self.rank == 0:
            self.tracker.progress.remote(done, total)

    def save(self, write: Callable[[Path], None], metrics: Mapping[str, float], step: int) -> None:
        """Report a checkpoint to Ray Train, which copies it to the run's folder."""
        with tempfile.TemporaryDirectory() as folder:
            if self.rank == 0:
                write(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder) if self.rank == 0 else None
            ray.train.report(dict(metrics), checkpoint=checkpoint, checkpoint_dir_name=f"step-{step:09d}")

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        """Give the folder of the newest checkpoint that Ray Train knows of."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as folder:
                yield Path(folder)


def open_session(task: Mapping[str, Any]) -> tuple[Experiment, Family, TrainSession]:
    """Return what a worker's task describes."""
    experiment, prepared = parse(task["experiment"]), Prepared.load(Path(task["prepared"]))
    session = TrainSession(experiment, prepared, task["tracker"], cache=task["cache"])
    return experiment, experiment.model(prepared.spec), session


def work(task: Mapping[str, Any]) -> dict[str, str]:
    """Train. A loss that is not finite stops every rank alike and is returned: trying again would not mend it."""
    experiment, family, session = open_session(task)
    try:
        fit(experiment, family, session)
    except NonFiniteError as error:
        return {"reason": "non_finite", "message": str(error)}
    finally:
        ray.get(task["tracker"].flush.remote())  # what was sent before a worker ends must not be lost with it
    return {}
