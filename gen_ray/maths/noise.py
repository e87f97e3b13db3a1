"""Randomness as a function of position: of a row in sampling, of a step in training.

Sampling uses a counter-based generator (Philox: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
whose n-th word is a hash of (key, counter). The key is a request's seed; the counter's upper words are the row, the
tick and the kind of draw, so each of these owns 2^64 blocks of its own and no row can see its neighbours.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

Words = np.ndarray | Sequence[int]
"""Unsigned 64-bit integers (B,)."""


class _Lane(IntEnum):
    """Kinds of draw. Each has its own streams, so that asking for one does not disturb another."""

    NORMAL = 0
    UNIFORM = 1
    GUMBEL = 2
    HELD = 3


@dataclass(frozen=True, eq=False, init=False)
class RowNoise:
    """The noise of B rows; the draws of row i are a function of (seeds[i], rows[i], ticks[i]) alone.

    Seeds, rows and ticks are unsigned 64-bit integers (B,). Asking twice for the same kind gives the same draws, and a
    smaller draw is the beginning of a larger one. Bits are fixed for one version of numpy (its NEP 19).
    """

    seeds: np.ndarray
    rows: np.ndarray
    ticks: np.ndarray

    def __init__(self, seeds: Words, rows: Words, ticks: Words) -> None:
        """Store the three as uint64 arrays. Raise ValueError if their lengths differ."""
        words = [np.asarray(part, dtype=np.uint64) for part in (seeds, rows, ticks)]
        if len({part.shape for part in words}) > 1 or words[0].ndim != 1:
            raise ValueError(f"seeds, rows and ticks must have one length, not {[part.shape for part in words]}")
        for name, part in zip(("seeds", "rows", "ticks"), words, strict=True):
            object.__setattr__(self, name, part)

    @classmethod
    def of(cls, seed: int, n: int, first: int = 0) -> Self:
        """Return the noise of rows first … first+n-1 of one request, at tick 0."""
        return cls(np.full(n, seed, np.uint64), np.arange(first, first + n, dtype=np.uint64), np.zeros(n, np.uint64))

    @property
    def batch(self) -> int:
        """Return B."""
        return len(self.seeds)

    def at(self, tick: int | Words) -> Self:
        """Return the same rows at another tick: one for all, or (B,)."""
        ticks = np.empty_like(self.seeds)
        ticks[:] = tick
        return self._same(self.seeds, self.rows, ticks)

    def select(self, index: np.ndarray | Tensor | Sequence[int] | slice) -> Self:
        """Return the rows at index: integers, a boolean mask (B,) or a slice."""
        at = index if isinstance(index, slice) else np.asarray(index)
        return self._same(self.seeds[at], self.rows[at], self.ticks[at])

    @classmethod
    def _same(cls, seeds: np.ndarray, rows: np.ndarray, ticks: np.ndarray) -> Self:
        """Return what __init__ does for arrays known to be of one length: it is asked for at every tick."""
        made = object.__new__(cls)
        for name, part in (("seeds", seeds), ("rows", rows), ("ticks", ticks)):
            object.__setattr__(made, name, part)
        return made

    def normal(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard normals (B, *shape), float32. Rows where the mask (B,) is False are zero and cost nothing."""
        return self._draw(_Lane.NORMAL, np.random.Generator.standard_normal, np.float32, shape, where, device)

    def held_normal(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard normals (B, *shape), float32, independent of ``normal``: the noise of what a chain holds."""
        return self._draw(_Lane.HELD, np.random.Generator.standard_normal, np.float32, shape, where, device)

    def uniform(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return uniforms in [0, 1), (B, *shape), float64. Rows where the mask (B,) is False are zero."""
        return self._draw(_Lane.UNIFORM, np.random.Generator.random, np.float64, shape, where, device)

    def gumbel(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard Gumbels, -ln of an exponential, (B, *shape), float64. Masked rows are zero.

        Float64, because float32 truncates the upper tail and so lowers the temperature (arXiv 2409.02908).
        """

        def fill(rng: np.random.Generator, *, out: np.ndarray, dtype: type) -> None:
            rng.standard_exponential(out=out, dtype=dtype)
            np.maximum(out, np.finfo(np.float64).tiny, out=out)
            np.negative(np.log(out, out=out), out=out)

        return self._draw(_Lane.GUMBEL, fill, np.float64, shape, where, device)

    def _draw(
        self,
        lane: _Lane,
        fill: Callable[..., object],
        dtype: type,
        shape: tuple[int, ...],
        where: Tensor | None,
        device: torch.device | str,
    ) -> Tensor:
        """Fill (B, *shape) on the host, a row at a time, and hand it to the device."""
        wanted = list(range(self.batch)) if where is None else where.nonzero().flatten().tolist()
        make = torch.empty if len(wanted) == self.batch else torch.zeros
        # Page-locked where a GPU is to fetch it: it would have to be copied once more, and waited for, otherwise.
        on_gpu = torch.device(device).type == "cuda"
        filled = make((self.batch, *shape), dtype=_TORCH[dtype], pin_memory=on_gpu)
        out = filled.numpy()
        seeds, rows, ticks = self.seeds.tolist(), self.rows.tolist(), self.ticks.tolist()
        for i in wanted:
            fill(_STREAM.at(seeds[i], lane, rows[i], ticks[i]), out=out[i, ...], dtype=dtype)
        return filled.to(device, non_blocking=True)


_TORCH: dict[type, torch.dtype] = {np.float32: torch.float32, np.float64: torch.float64}


class _Stream(threading.local):
    """One generator of a thread, moved from row to row: 1 µs, where a new one takes 7."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.rng = np.random.Generator(self.bits)
        self.state: Any = self.bits.state

    def at(self, seed: int, lane: int, row: int, tick: int) -> np.random.Generator:
        """Return the generator at the beginning of one draw of a row."""
        self.state["state"] = {
            "key": np.array([seed, 0], np.uint64),
            "counter": np.array([0, tick, row, lane], np.uint64),
        }
        self.bits.state = self.state
        return self.rng


_STREAM = _Stream()


def generator(seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by a hash of (seed, *position), for instance (run's seed, rank, step).

    Training draws from one of these at each step, so that a resumed run repeats an undisturbed one. The hash is 64 bits
    wide; torch keeps 32 of them on a CPU.
    """
    return torch.Generator(device).manual_seed(seed_at(seed, *position))


def seed_at(seed: int, *position: int) -> int:
    """Return a hash of (seed, *position), 64 bits: the seed of one stream among many.

    Two generators with one seed draw the same words, also where one of them is torch's global one.
    """
    words = repr([int(word) for word in (seed, *position)]).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")


def strata(batch: int, rng: torch.Generator, device: torch.device | str) -> Tensor:
    """Return uniforms (B,) float64 in [0, 1), one in each of B equal parts, from a single draw (Kingma et al. 2021).

    They are equally spaced, which takes most of the variance that comes from the time alone. The draw shifts them round
    the circle: each is uniform, so a row's place in the batch says nothing, even where rows stand in a fixed order.
    """
    shift = torch.rand((), generator=rng, device=device, dtype=torch.float64)
    return (torch.arange(batch, device=device, dtype=torch.float64) / batch + shift) % 1
