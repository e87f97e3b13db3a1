"""What the training loop needs from the outside world, so that it runs alike under Ray Train and in a plain process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gen_ray.engine.training import post_hoc_ema
from gen_ray.engine.training.batches import Batches
from gen_ray.engine.training.checkpoint import Files
from gen_ray.engine.training.checkpoint_store import CheckpointStore


class Session(Protocol):
    """The few verbs of a place to train. Every rank calls all but show and show_text, rank 0's, equally often."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def all_slots(self) -> int:
        """Return for how many workers a batch is cut, however many there are now."""
        ...

    @property
    def slots(self) -> range:
        """Return which of these workers' work is this rank's."""
        ...

    def batches(self, split: str) -> Batches:
        """Return the view of a split that this rank's slots have together."""
        ...

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net wrapped so that its gradients are averaged over the ranks."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Return values (N,) summed over the ranks."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at an optimizer step."""
        ...

    def show(self, name: str, picture: np.ndarray, step: int) -> None:
        """Record a picture, uint8 (H, W, 3), at an optimizer step."""
        ...

    def show_text(self, name: str, text: str, step: int) -> None:
        """Record a text at an optimizer step."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Tell how many of the optimizer steps are done."""
        ...

    def save(self, pack: Callable[[], Files], step: int) -> None:
        """Keep a checkpoint of this step, packed at once by rank 0 and written while training goes on.

        Raise SharedError on every rank where the one before could not be written.
        """
        ...

    def keep(self, pack: Callable[[], Files], step: int) -> None:
        """Keep averages of this step for good, in the same manner."""
        ...

    def stopping(self) -> bool:
        """Return whether the training is to stop now; asked of rank 0 before every step, so it must not wait."""
        ...

    def preemption_notice(self) -> bool:
        """Return, on every rank alike, whether notice was given that a machine of this training is taken away soon."""
        ...

    def flush(self) -> None:
        """Return when all has been written. Raise SharedError on every rank where it could not be."""
        ...

    def restore(self) -> AbstractContextManager[Path | None]:
        """Enter with the folder of the newest checkpoint, None where there is none."""
        ...


@dataclass
class LocalSession:
    """One plain process: what tests, notebooks and the benchmark's own loop use."""

    splits: Mapping[str, Batches]
    folder: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    slots: range = range(1)
    all_slots: int = 1
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def batches(self, split: str) -> Batches:
        """Return a split."""
        return self.splits[split]

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net as it is."""
        return net

    def sum(self, values: Tensor) -> Tensor:
        """Return values as they are."""
        return values

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append to history."""
        self.history.append((step, dict(metrics)))

    def show(self, name: str, picture: np.ndarray, step: int) -> None:
        """Keep the newest picture of each name."""
        self.pictures[name] = picture

    def show_text(self, name: str, text: str, step: int) -> None:
        """Keep the newest text of each name."""
        self.texts[name] = text

    def progress(self, done: int, total: int) -> None:
        """Tell nobody."""

    def save(self, pack: Callable[[], Files], step: int) -> None:
        """Write the checkpoint into the folder given, if one was."""
        if self.folder is not None:
            CheckpointStore(self.folder).save(pack(), step)

    def keep(self, pack: Callable[[], Files], step: int) -> None:
        """Write the averages below the folder given, if one was."""
        if self.folder is not None:
            post_hoc_ema.snapshots(self.folder).add(pack(), step)

    def stopping(self) -> bool:
        """Return False."""
        return False

    def preemption_notice(self) -> bool:
        """Return False."""
        return False

    def flush(self) -> None:
        """Do nothing: all has been written."""

    def restore(self) -> AbstractContextManager[Path | None]:
        """Return the newest checkpoint of the folder that is as it was written."""
        return nullcontext(CheckpointStore(self.folder).last() if self.folder else None)


def chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of consecutive parts of at most size that cover range(total)."""
    for first in range(0, total, size):
        yield first, min(first + size, total)
