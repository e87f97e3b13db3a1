"""Batches as a function of position: (seed, step) determines the rows of a step, whatever ran before.

A step's global batch is cut into the micro-batches of all ranks in order: with a = `accumulation_steps`, rank r owns
the micro-batches r·a … r·a + a−1. Two workers therefore compute the same as one worker with a = 2.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor


class Batches(Protocol):
    """A rank's view of one split."""

    @property
    def rows(self) -> int:
        """Return the number of rows of the whole split."""
        ...

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield without end this rank's micro-batches (B/micro-batches, *shape) of each step, from first_step on."""
        ...

    def slices(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, x (N, *shape)) with N ≤ size of this rank's share of the split.

        Together, the ranks cover each row once.
        """
        ...


T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an endless iterator; a thread computes each one while the previous one is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items)
        while True:
            item = coming.result()
            coming = pool.submit(next, items)
            yield item


def prefetch_to_device(steps: Iterator[list[Tensor]], device: torch.device) -> Iterator[list[Tensor]]:
    """Yield the micro-batches (N, *shape) of each step on the device.

    For a GPU, they are gathered and copied while it computes the previous step. On a CPU they are passed on unchanged,
    because a prefetching thread would take a core from the computation.
    """
    if device.type != "cuda":
        yield from steps
        return
    copier = Copier(device)
    for started in prefetch(map(copier.begin, steps)):
        yield copier.finish(*started)


class Copier:
    """Copies to a GPU through page-locked memory, on a separate CUDA stream that does not wait for computations."""

    def __init__(self, device: torch.device) -> None:
        """Create the CUDA stream."""
        self.device, self.stream = device, torch.cuda.Stream(device)

    def begin(self, micros: list[Tensor]) -> tuple[list[Tensor], torch.cuda.Event]:
        """Start copies of micro-batches (N, *shape); return them and the event of their completion."""
        with torch.cuda.stream(self.stream):
            copies = [micro.pin_memory().to(self.device, non_blocking=True) for micro in micros]
            return copies, self.stream.record_event()

    def finish(self, copies: list[Tensor], made: torch.cuda.Event) -> list[Tensor]:
        """Return the copies (N, *shape) for use on the current stream. The stream waits for them; the host does not."""
        using = torch.cuda.current_stream(self.device)
        using.wait_event(made)
        for copy in copies:
            copy.record_stream(using)  # otherwise its memory could be reused while it is in use
        return copies


class TimedIterator:
    """An iterator that measures how long its consumer waits for it."""

    def __init__(self, stream: Iterator[list[Tensor]]) -> None:
        """Wrap stream."""
        self.stream, self.seconds = stream, 0.0

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Return itself."""
        return self

    def __next__(self) -> list[Tensor]:
        """Return the next step's micro-batches."""
        began = time.perf_counter()
        try:
            return next(self.stream)
        finally:
            self.seconds += time.perf_counter() - began


@dataclass(frozen=True, kw_only=True)
class MicroBatches:
    """A rank's part of every batch of batch_size rows: its accumulation_steps of all micro-batches."""

    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    accumulation_steps: int = 1


@dataclass(frozen=True)
class InMemoryBatches(MicroBatches):
    """A split held in memory: x (N, *shape) in stored form, with a new permutation from the seed in each epoch.

    The steps run over the concatenation of the epochs' permutations; each row therefore occurs exactly once per epoch,
    even where the batch size does not divide N.
    """

    x: Tensor

    @property
    def rows(self) -> int:
        """Return N."""
        return len(self.x)

    def indices(self, step: int) -> np.ndarray:
        """Return the row numbers (B,) of the global batch of a step."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.rows
        return np.concatenate(
            [permutation(self.rows, self.seed, int(e))[positions[epochs == e] % self.rows] for e in np.unique(epochs)]
        )

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield this rank's micro-batches (B/micro-batches, *shape) of each step, without end."""
        micro_batches = self.world_size * self.accumulation_steps
        first_own, step = self.rank * self.accumulation_steps, first_step
        while True:
            cut = torch.from_numpy(self.indices(step)).view(micro_batches, -1)
            yield [self.x[cut[first_own + a]] for a in range(self.accumulation_steps)]
            step += 1

    def slices(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, x (N, *shape)) of every world_size-th slice of the split, starting with slice rank."""
        for index in range(self.rank, -(-self.rows // size), self.world_size):
            yield index, self.x[index * size : (index + 1) * size]


@dataclass(frozen=True)
class CombinedBatches:
    """The views of several ranks on one split, combined for a worker that does the work of all of them."""

    parts: Sequence[Batches]

    @property
    def rows(self) -> int:
        """Return the number of rows of the whole split."""
        return self.parts[0].rows

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield the micro-batches (B/micro-batches, *shape) of all parts for each step, without end."""
        for micros in zip(*(part.stream(first_step) for part in self.parts), strict=True):
            yield [micro for of_part in micros for micro in of_part]

    def slices(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, x (N, *shape)) of the shares of all parts."""
        for part in self.parts:
            yield from part.slices(size)


def rows_of_rank(batches: Batches, world_size: int, minimum: int) -> Tensor:
    """Return a rank's rows x (N, *shape) of a split; they are repeated where there are fewer than minimum."""
    # Larger slices of a small split would leave a rank without rows.
    size = max(1, min(4096, batches.rows // world_size))
    x = torch.cat([rows for _, rows in batches.slices(size)])
    return torch.cat([x] * -(-minimum // len(x))) if len(x) < minimum else x


@lru_cache(maxsize=2)
def permutation(n: int, *key: int) -> np.ndarray:
    """Return a permutation of range(n), (n,) int64, as a function of key only."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(n)
