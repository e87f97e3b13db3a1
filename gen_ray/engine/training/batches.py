"""Batches as a function of position: (seed, step) fixes the rows of a step, whatever was or was not run before.

A step's global batch is cut into *lanes*, the micro-batches of all ranks in order: rank r with `accumulate` a owns
lanes r·a … r·a + a−1. Two workers are so the same computation as one worker that accumulates two micro-batches.
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
        """Yield, from first_step on and for ever, this rank's micro-batches (B/lanes, *shape) of each step."""
        ...

    def ordered(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, batch of at most size rows) of this rank's share of the split, each row once over all ranks."""
        ...


T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield what is given without end, each made by a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items)
        while True:
            item = coming.result()
            coming = pool.submit(next, items)
            yield item


def prefetch_to_device(steps: Iterator[list[Tensor]], device: torch.device) -> Iterator[list[Tensor]]:
    """Yield each step's micro-batches; for a GPU gathered and copied there while it computes the step before.

    On a CPU they are what they are: a thread would only take a core from the net.
    """
    if device.type != "cuda":
        yield from steps
        return
    copier = Copier(device)
    for begun in prefetch(map(copier.begin, steps)):
        yield copier.finish(*begun)


class Copier:
    """Copies to a GPU by page-locked memory and a stream of their own, which wait for nothing that it computes."""

    def __init__(self, device: torch.device) -> None:
        """Make the stream."""
        self.device, self.stream = device, torch.cuda.Stream(device)

    def begin(self, micros: list[Tensor]) -> tuple[list[Tensor], torch.cuda.Event]:
        """Return copies that are under way, and what tells when they are made."""
        with torch.cuda.stream(self.stream):
            copies = [micro.pin_memory().to(self.device, non_blocking=True) for micro in micros]
            return copies, self.stream.record_event()

    def finish(self, copies: list[Tensor], made: torch.cuda.Event) -> list[Tensor]:
        """Return the copies for use on the current stream, which waits for them; the host does not."""
        using = torch.cuda.current_stream(self.device)
        using.wait_event(made)
        for copy in copies:
            copy.record_stream(using)  # else its memory would be given to a next copy while it is in use
        return copies


class TimedIterator:
    """A stream whose user wants to know how long it waited for it."""

    def __init__(self, stream: Iterator[list[Tensor]]) -> None:
        """Take over the stream."""
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
    """The part of every batch of batch_size rows that is a rank's: its accumulate lanes of world_size·accumulate."""

    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1


@dataclass(frozen=True)
class InMemoryBatches(MicroBatches):
    """A split held in memory: x (N, *shape) in stored form, reordered anew each epoch from the seed.

    The steps run over the concatenation of the epochs' permutations, so that each row comes exactly once an epoch
    even where the batch size does not divide N.
    """

    x: Tensor

    @property
    def rows(self) -> int:
        """Return N."""
        return len(self.x)

    def indices(self, step: int) -> np.ndarray:
        """Return the rows (B,) of the global batch of a step."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.rows
        return np.concatenate(
            [permutation(self.rows, self.seed, int(e))[positions[epochs == e] % self.rows] for e in np.unique(epochs)]
        )

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield this rank's micro-batches of each step."""
        lanes = self.world_size * self.accumulate
        first_lane, step = self.rank * self.accumulate, first_step
        while True:
            cut = torch.from_numpy(self.indices(step)).view(lanes, -1)
            yield [self.x[cut[first_lane + a]] for a in range(self.accumulate)]
            step += 1

    def ordered(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield every world_size-th slice of the split, beginning with the rank's own."""
        for index in range(self.rank, -(-self.rows // size), self.world_size):
            yield index, self.x[index * size : (index + 1) * size]


@dataclass(frozen=True)
class CombinedBatches:
    """Several ranks' views of one split as one: those of a worker that does the work of them all."""

    parts: Sequence[Batches]

    @property
    def rows(self) -> int:
        """Return the number of rows of the whole split."""
        return self.parts[0].rows

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield the micro-batches of all of them, of each step."""
        for micros in zip(*(part.stream(first_step) for part in self.parts), strict=True):
            yield [micro for of_part in micros for micro in of_part]

    def ordered(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the share of the split that they have together."""
        for part in self.parts:
            yield from part.ordered(size)


def own_rows(batches: Batches, ranks: int, least: int) -> Tensor:
    """Return a rank's rows of a split; where they are fewer than least, they are repeated."""
    size = max(1, min(4096, batches.rows // ranks))  # larger slices of a small split would leave a rank without rows
    x = torch.cat([rows for _, rows in batches.ordered(size)])
    return torch.cat([x] * -(-least // len(x))) if len(x) < least else x


@lru_cache(maxsize=2)
def permutation(n: int, *key: int) -> np.ndarray:
    """Return a permutation of range(n), (n,) int64, that is a function of key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(n)
