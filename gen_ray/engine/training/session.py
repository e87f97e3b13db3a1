"""The training loop's interface to its environment: the same under Ray Train and in a plain process."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gen_ray.engine.inference.model_files import Files
from gen_ray.engine.training import post_hoc_ema
from gen_ray.engine.training.batches import Batches
from gen_ray.engine.training.checkpoint_store import CheckpointStore


class Session(Protocol):
    """The environment of a training.

    All ranks make the same calls, except log_image and log_text, which only rank 0 makes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def logical_worker_count(self) -> int:
        """Return the number of logical workers between which a batch is divided, whatever the number of ranks."""
        ...

    @property
    def logical_workers(self) -> range:
        """Return the logical workers whose work this rank does."""
        ...

    def batches(self, split: str) -> Batches:
        """Return the view of a split for all logical workers of this rank."""
        ...

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net wrapped so that gradients are averaged over the ranks."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Return values (N,) summed over the ranks."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at an optimizer step."""
        ...

    def log_image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Log a picture, uint8 (H, W, 3), at an optimizer step."""
        ...

    def log_text(self, name: str, text: str, step: int) -> None:
        """Log a text at an optimizer step."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Report how many of the optimizer steps are done."""
        ...

    def save(self, pack: Callable[[], Files], step: int) -> None:
        """Save a checkpoint of this step; rank 0 packs it at once, and it is written while training continues.

        Raise SharedError on every rank where the previous one could not be written.
        """
        ...

    def save_snapshot(self, pack: Callable[[], Files], step: int) -> None:
        """Save a snapshot of the averages of this step permanently, in the same way."""
        ...

    def stop_requested(self) -> bool:
        """Return whether to stop now; rank 0 calls it before every step, so it must not block."""
        ...

    def preemption_notice(self) -> bool:
        """Return, equally on every rank, whether notice was given that a machine of this training will be preempted."""
        ...

    def flush(self) -> None:
        """Return when everything has been written. Raise SharedError on every rank where that failed."""
        ...

    def restore(self) -> AbstractContextManager[Path | None]:
        """Return a context with the folder of the newest checkpoint, None where there is none."""
        ...


@dataclass
class LocalSession:
    """A session in one plain process, for tests, notebooks and benchmarks."""

    splits: Mapping[str, Batches]
    folder: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    logical_workers: range = range(1)
    logical_worker_count: int = 1
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def batches(self, split: str) -> Batches:
        """Return a split."""
        return self.splits[split]

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net unchanged."""
        return net

    def sum(self, values: Tensor) -> Tensor:
        """Return values unchanged."""
        return values

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the metrics to history."""
        self.history.append((step, dict(metrics)))

    def log_image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Keep the newest picture of each name."""
        self.pictures[name] = picture

    def log_text(self, name: str, text: str, step: int) -> None:
        """Keep the newest text of each name."""
        self.texts[name] = text

    def progress(self, done: int, total: int) -> None:
        """Do nothing."""

    def save(self, pack: Callable[[], Files], step: int) -> None:
        """Write the checkpoint to the session's folder, if it has one."""
        if self.folder is not None:
            CheckpointStore(self.folder).save(pack(), step)

    def save_snapshot(self, pack: Callable[[], Files], step: int) -> None:
        """Write the averages below the session's folder, if it has one."""
        if self.folder is not None:
            post_hoc_ema.snapshots(self.folder).add(pack(), step)

    def stop_requested(self) -> bool:
        """Return False."""
        return False

    def preemption_notice(self) -> bool:
        """Return False."""
        return False

    def flush(self) -> None:
        """Do nothing, because save and save_snapshot write at once."""

    def restore(self) -> AbstractContextManager[Path | None]:
        """Return the newest undamaged checkpoint of the folder."""
        return nullcontext(CheckpointStore(self.folder).last() if self.folder else None)
