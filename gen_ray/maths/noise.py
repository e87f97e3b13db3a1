"""Randomness as a function of position: of a row in sampling, of a step in training.

Sampling uses a counter-based generator (Philox: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
whose n-th word is a hash of (key, counter). The key is a request's seed; the counter's upper words are the row, the
tick and the kind of draw, so each of these owns 2^64 blocks of its own and no row can see its neighbours.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Self

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
        return replace(self, ticks=np.broadcast_to(np.asarray(tick, dtype=np.uint64), self.seeds.shape))

    def select(self, index: np.ndarray | Tensor | Sequence[int] | slice) -> Self:
        """Return the rows at index: integers, a boolean mask (B,) or a slice."""
        at = index if isinstance(index, slice) else np.asarray(index)
        return replace(self, seeds=self.seeds[at], rows=self.rows[at], ticks=self.ticks[at])

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
        wanted = np.arange(self.batch) if where is None else np.flatnonzero(where.cpu().numpy())
        out: np.ndarray = np.zeros((self.batch, *shape), dtype)
        for i, rng in self._streams(lane, wanted):
            fill(rng, out=out[i, ...], dtype=dtype)
        return torch.from_numpy(out).to(device, non_blocking=True)

    def _streams(self, lane: _Lane, index: np.ndarray) -> Iterator[tuple[int, np.random.Generator]]:
        """Yield (i, generator of row i). One bit generator is moved from row to row: 1 µs, where a new one takes 7."""
        bits = np.random.Philox(key=0)
        rng, state = np.random.Generator(bits), bits.state
        for i in index.tolist():
            state["state"] = {
                "key": np.array([self.seeds[i], 0], np.uint64),
                "counter": np.array([0, self.ticks[i], self.rows[i], lane], np.uint64),
            }
            bits.state = state
            yield i, rng


def generator(seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by a hash of (seed, *position), for instance (run's seed, rank, step).

    Training draws from one of these at each step, so that a resumed run repeats an undisturbed one. The hash is 64 bits
    wide; torch keeps 32 of them on a CPU.
    """
    words = repr([int(word) for word in (seed, *position)]).encode()
    digest = hashlib.blake2b(words, digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))
