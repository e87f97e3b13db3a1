"""Randomness as a function of position: of the row in sampling, of the step in training.

Sampling uses a counter-based generator (Philox: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
whose n-th word is a hash of (key, counter). The key is a request's seed; the counter's upper words are the row, the
tick and the kind of draw. Each combination has a separate range of 2^64 blocks, so rows do not affect each other.
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
    """Kinds of draw. Each has separate streams, so a draw of one kind does not change the draws of another."""

    NORMAL = 0
    UNIFORM = 1
    GUMBEL = 2
    HELD = 3


@dataclass(frozen=True, eq=False, init=False)
class RowNoise:
    """The noise of B rows; the draws of row i are a function of (seeds[i], rows[i], ticks[i]) only.

    Seeds, rows and ticks are unsigned 64-bit integers (B,). Repeated calls for the same kind give the same draws, and a
    smaller draw is the start of a larger one. Bits are guaranteed for one version of numpy (its NEP 19).
    """

    seeds: np.ndarray
    rows: np.ndarray
    ticks: np.ndarray

    def __init__(self, seeds: Words, rows: Words, ticks: Words) -> None:
        """Store seeds, rows and ticks as uint64 arrays. Raise ValueError if their lengths differ."""
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
        """Return the same rows at another tick: one number for all rows, or (B,)."""
        ticks = np.empty_like(self.seeds)
        ticks[:] = tick
        return self._same(self.seeds, self.rows, ticks)

    def select(self, index: np.ndarray | Tensor | Sequence[int] | slice) -> Self:
        """Return the rows at index: integers, a boolean mask (B,) or a slice."""
        at = index if isinstance(index, slice) else np.asarray(index)
        return self._same(self.seeds[at], self.rows[at], self.ticks[at])

    @classmethod
    def _same(cls, seeds: np.ndarray, rows: np.ndarray, ticks: np.ndarray) -> Self:
        """Return an instance of arrays known to have one length, without the checks of __init__, for speed per tick."""
        made = object.__new__(cls)
        for name, part in (("seeds", seeds), ("rows", rows), ("ticks", ticks)):
            object.__setattr__(made, name, part)
        return made

    def normal(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard normals (B, *shape), float32; zeros, not computed, in rows where ``where`` (B,) is False."""
        return self._draw(_Lane.NORMAL, np.random.Generator.standard_normal, np.float32, shape, where, device)

    def held_normal(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard normals (B, *shape), float32, independent of ``normal``, for the known part of a chain."""
        return self._draw(_Lane.HELD, np.random.Generator.standard_normal, np.float32, shape, where, device)

    def uniform(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return uniforms in [0, 1), (B, *shape), float64; zeros in rows where ``where`` (B,) is False."""
        return self._draw(_Lane.UNIFORM, np.random.Generator.random, np.float64, shape, where, device)

    def gumbel(
        self, shape: tuple[int, ...], *, where: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard Gumbels, -ln of an exponential, (B, *shape), float64; zeros in rows where ``where`` is False.

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
        """Return draws (B, *shape), filled row by row on the host and copied to the device."""
        indices = list(range(self.batch)) if where is None else where.nonzero().flatten().tolist()
        make = torch.empty if len(indices) == self.batch else torch.zeros
        # Page-locked for a GPU: otherwise the transfer needs another copy and blocks.
        on_gpu = torch.device(device).type == "cuda"
        filled = make((self.batch, *shape), dtype=_TORCH[dtype], pin_memory=on_gpu)
        out = filled.numpy()
        seeds, rows, ticks = self.seeds.tolist(), self.rows.tolist(), self.ticks.tolist()
        for i in indices:
            fill(_STREAM.at(seeds[i], lane, rows[i], ticks[i]), out=out[i, ...], dtype=dtype)
        return filled.to(device, non_blocking=True)


_TORCH: dict[type, torch.dtype] = {np.float32: torch.float32, np.float64: torch.float64}


class _Stream(threading.local):
    """One generator per thread, moved from row to row in 1 µs; a new generator takes 7 µs."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.rng = np.random.Generator(self.bits)
        self.state: Any = self.bits.state

    def at(self, seed: int, lane: int, row: int, tick: int) -> np.random.Generator:
        """Return the generator at the start of one draw of a row."""
        self.state["state"] = {
            "key": np.array([seed, 0], np.uint64),
            "counter": np.array([0, tick, row, lane], np.uint64),
        }
        self.bits.state = self.state
        return self.rng


_STREAM = _Stream()


def generator(seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by a hash of (seed, *position), for instance (run's seed, rank, step).

    Training makes a new one at each step, so a resumed run repeats an uninterrupted one. The hash has 64 bits, of which
    torch uses 32 on a CPU.
    """
    return torch.Generator(device).manual_seed(seed_at(seed, *position))


def seed_at(seed: int, *position: int) -> int:
    """Return a 64-bit hash of (seed, *position), as the seed of a separate stream.

    Two generators with equal seeds draw the same words, even if one of them is torch's global generator.
    """
    words = repr([int(word) for word in (seed, *position)]).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")


def stratified_uniform(batch: int, rng: torch.Generator, device: torch.device | str) -> Tensor:
    """Return uniforms (B,) float64 in [0, 1), one in each of B equal parts, from a single draw (Kingma et al. 2021).

    They are equally spaced, which removes most of the variance due to the time. The draw shifts them modulo 1: each is
    uniform, so a row's index in the batch carries no information, even if rows are in a fixed order.
    """
    shift = torch.rand((), generator=rng, device=device, dtype=torch.float64)
    return (torch.arange(batch, device=device, dtype=torch.float64) / batch + shift) % 1


def stratified_steps(T: int | Tensor, batch: int, rng: torch.Generator, device: torch.device | str) -> Tensor:
    """Return steps (B,) int64, each uniform over 1 … T, stratified over the batch by ``stratified_uniform``.

    T is a number >= 1, or one for each row (B,).
    """
    last = torch.as_tensor(T, device=device) - 1
    return 1 + torch.minimum((stratified_uniform(batch, rng, device) * T).long(), last)


def stratified_step(
    T: int | Tensor, part: int, parts: int | Tensor, batch: int, rng: torch.Generator, device: torch.device | str
) -> Tensor:
    """Return steps (B,) int64, independent and uniform over one of ``parts`` equal parts of 1 … T, the part-th from 0.

    With parts = T every step is drawn once. T and parts are numbers >= 1, or one for each row (B,).
    """
    u = torch.rand(batch, generator=rng, device=device, dtype=torch.float64)
    last, width = torch.as_tensor(T, device=device), torch.as_tensor(T, device=device).double() / parts
    return 1 + torch.minimum(((part + u) * width).long(), last - 1)
