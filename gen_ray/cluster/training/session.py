"""The part of the training loop's session that is the same under Ray Train and Ray Tune."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import ray
import torch
from torch import Tensor, nn

from gen_ray.cluster.data.blocks import Streamed
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.inference.model_files import Files
from gen_ray.engine.training import checkpoint, checkpoint_store, post_hoc_ema
from gen_ray.engine.training.batches import Batches, CombinedBatches, InMemoryBatches
from gen_ray.errors import RunError, SharedError
from gen_ray.experiment import Experiment

ASK_SECONDS = 0.5


class RunSession(ABC):
    """Implements engine.training.session.Session for a run with a RunLogger and checkpoints in a folder, home."""

    rank: int
    world_size: int
    device: torch.device

    def __init__(self, experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path) -> None:
        """Create a session that has read and written nothing; track logs the run, home is its folder."""
        self.experiment, self.prepared, self.track, self.home = experiment, prepared, track, home
        self._batches = dict[str, Batches]()
        self.stop, self.asked_at = False, time.monotonic()
        self.answer: ray.ObjectRef | None = None
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    @abstractmethod
    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net prepared for training in this process."""

    @abstractmethod
    def rows(self, split: str) -> Tensor | None:
        """Return a split in stored form (N, *shape) if it is to be held in memory, None if it is to be streamed."""

    def batches(self, split: str) -> Batches:
        """Return a split's batches: read once into this worker's memory, or streamed every epoch if it is too large."""
        if split not in self._batches:
            rows = self.rows(split)
            self._batches[split] = CombinedBatches([self._view(split, rows, worker) for worker in self.logical_workers])
        return self._batches[split]

    def _view(self, split: str, rows: Tensor | None, worker: int) -> Batches:
        position = {
            "batch_size": self.experiment.data.batch_size,
            "seed": self.experiment.training.seed,
            "rank": worker,
            "world_size": self.logical_worker_count,
            "accumulation_steps": self.experiment.training.gradient_accumulation_steps,
        }
        return Streamed(self.prepared.shards(split), **position) if rows is None else InMemoryBatches(rows, **position)

    @property
    def logical_worker_count(self) -> int:
        """Return the number of logical workers that a batch is divided among: the maximum number of workers."""
        return self.experiment.scaling.most_workers

    @property
    def logical_workers(self) -> range:
        """Return the logical workers whose work this rank does."""
        first, end = (rank * self.logical_worker_count // self.world_size for rank in (self.rank, self.rank + 1))
        return range(first, end)

    def sum(self, values: Tensor) -> Tensor:
        """Sum values in place over the ranks and return them, in the same shape."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send rank 0's metrics to the logger actor without waiting for MLflow."""
        if self.rank == 0:
            self.track.log(metrics, step)

    def log_image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Send a picture (H, W, 3) to the logger actor."""
        self.track.log_image(name, picture, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Send a text to the logger actor."""
        self.track.log_text(name, text, step)

    def progress(self, done: int, total: int) -> None:
        """Report the training's progress to the logger actor."""
        if self.rank == 0:
            self.track.progress(done, total)

    def save(self, pack: Callable[[], Files], step: int) -> None:
        """Write a checkpoint into the run's folder, which all machines share, while training continues.

        ray.train.report is not used: it writes the files twice, keeps its own index, which a kill can leave empty, and
        makes every rank wait for the controller's next poll.
        """
        self._write(checkpoint_store.checkpoints(self.home).save, pack, step)

    def save_snapshot(self, pack: Callable[[], Files], step: int) -> None:
        """Write a snapshot for post-hoc EMA into the run's folder in the same way."""
        self._write(post_hoc_ema.snapshots(self.home).add, pack, step)

    def _write(self, write: Callable[[Files, int], None], pack: Callable[[], Files], step: int) -> None:
        self.flush()
        if self.rank == 0:
            self.writing = self.writer.submit(write, pack(), step)

    def stop_requested(self) -> bool:
        """Return the last known stop flag of the logger actor, which is polled every half second without waiting."""
        if self.answer and ray.wait([self.answer], timeout=0)[0]:
            self.stop, self.answer = ray.get(self.answer), None
        if self.answer is None and time.monotonic() - self.asked_at > ASK_SECONDS:
            self.answer, self.asked_at = self.track.stopping(), time.monotonic()
        return self.stop

    def preemption_notice(self) -> bool:
        """Return False: this session receives no notices."""
        return False

    def flush(self) -> None:
        """Wait for pending writes. If one failed, raise SharedError on all ranks, so that no rank waits for another."""
        fault: BaseException | None = None
        if self.writing is not None:
            fault, self.writing = self.writing.exception(), None
        if fault is not None and not isinstance(fault, RunError):
            raise fault
        if self.sum(torch.tensor([float(fault is not None)], device=self.device)).item():
            error = fault or RunError("rank 0 could not write a checkpoint", reason="storage")
            raise SharedError(str(error), reason=error.reason) from fault

    def close(self) -> None:
        """Shut down after pending writes."""
        self.writer.shutdown()

    def restore(self) -> AbstractContextManager[Path | None]:
        """Return the newest checkpoint that rank 0 finds, so that all ranks start from the same one."""
        newest = self._latest_checkpoint() if self.rank == 0 else None
        step = self.sum(torch.tensor([checkpoint.position(newest)["step"] if newest else 0], device=self.device))
        return nullcontext(checkpoint_store.checkpoints(self.home).folder_of(int(step)) if int(step) else None)

    def _latest_checkpoint(self) -> Path | None:
        for store in (checkpoint_store.checkpoints(self.home), post_hoc_ema.snapshots(self.home)):
            store.remove_drafts()
        return checkpoint_store.checkpoints(self.home).last()
