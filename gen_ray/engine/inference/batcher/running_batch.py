"""The rows that go along in a tick: one stacked state, put together anew only when somebody comes or goes."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_ray.engine.inference.batcher.requests import SampleRow
from gen_ray.family import Kernel, State
from gen_ray.maths.noise import RowNoise


class RunningBatch:
    """Rows in any chains of one model, at any places."""

    def __init__(self, device: torch.device, *, fixed: int | None = None) -> None:
        """With fixed, every tick is padded to so many rows, which makes a row's bits independent of its company."""
        self.device, self.fixed = device, fixed
        self.rows: list[SampleRow] = []
        self.state: State = {}
        self.noise = RowNoise([], [], [])

    @property
    def kernel(self) -> Kernel:
        """Return the kernel that all chains of a model share."""
        return self.rows[0].walk.chain.kernel

    def set_rows(self, wanted: Sequence[SampleRow]) -> None:
        """Let exactly these rows go along: who leaves keeps its state, who comes brings it or begins."""
        coming = {id(row) for row in wanted}
        staying = [i for i, row in enumerate(self.rows) if id(row) in coming]
        if len(staying) == len(self.rows) == len(wanted):
            return
        aboard = {id(row) for row in self.rows}
        for i, row in enumerate(self.rows):
            if id(row) not in coming and row.position < row.walk.chain.nfe:
                row.state = {key: self.state[key][i : i + 1].clone() for key in row.keys}
        joining = [row for row in wanted if id(row) not in aboard]
        parts = [_select(self.state, staying)] if staying else []
        for row in joining:
            if row.state is not None:
                parts.append(row.state)
                row.state = None
        resumed = [row for row in joining if row.keys]
        fresh = [row for row in joining if not row.keys]
        for _, group in groupby(fresh, key=lambda row: id(row.walk)):
            parts.append(self._begin(list(group)))
        self.rows = [self.rows[i] for i in staying] + resumed + fresh
        self.state = _concatenate(parts, frozenset().union(*(row.keys for row in self.rows)))
        self.noise = RowNoise(
            [row.walk.seed for row in self.rows], [row.index for row in self.rows], [0] * len(self.rows)
        )

    def _begin(self, rows: list[SampleRow]) -> State:
        walk, first, n = rows[0].walk, rows[0].index, len(rows)
        held = walk.held and walk.held.part(first, n)
        state = walk.chain.kernel.start(RowNoise.of(walk.seed, n, first=first), self.device, held)
        for row in rows:
            row.keys = frozenset(state)
        return state

    def tick(self, net: Any) -> None:
        """Advance every row by one network evaluation."""
        at = [row.position for row in self.rows]
        table = torch.from_numpy(
            np.stack([row.walk.table[place] for row, place in zip(self.rows, at, strict=True)])  # (B, R) float64
        )
        noise = self.noise.at([place + 1 for place in at])
        padding = self.fixed - len(self.rows) if self.fixed else 0
        if padding:
            index = [*range(len(self.rows)), *[0] * padding]
            state = self.kernel.tick(net, _select(self.state, index), table[index], noise.select(index))
            self.state = {key: value[: len(self.rows)] for key, value in state.items()}
        else:
            self.state = self.kernel.tick(net, self.state, table, noise)
        for row in self.rows:
            row.position += 1

    def pop_finished(self) -> list[tuple[list[SampleRow], Tensor, bool]]:
        """Take out the rows at their end: by walk its rows, their samples on the CPU, and whether all was finite."""
        ended = [i for i, row in enumerate(self.rows) if row.position == row.walk.chain.nfe]
        if not ended:
            return []
        state = _select(self.state, ended)
        samples, finite = self.kernel.finish(state).cpu(), _finite(state)
        found, place = [], 0
        for _, group in groupby((self.rows[i] for i in ended), key=lambda row: id(row.walk)):
            rows = list(group)
            part = slice(place, place + len(rows))
            found.append((rows, samples[part], bool(finite[part].all())))
            place += len(rows)
        self.set_rows([row for row in self.rows if row.position < row.walk.chain.nfe])
        return found

    def clear(self) -> None:
        """Let all rows go without looking at a state that cannot be trusted."""
        self.rows, self.state = [], {}

    def look(self) -> list[tuple[SampleRow, Tensor]]:
        """Return the rows and what each looks like now (*shape) on the CPU, −1 where nothing is decided."""
        return list(zip(self.rows, self.kernel.preview(self.state).cpu(), strict=True)) if self.rows else []


def _select(state: State, index: list[int]) -> State:
    return {key: value[index] for key, value in state.items()}


def _concatenate(parts: list[State], keys: frozenset[str]) -> State:
    """Return the parts as one state; what a part lacks of the keys is 0 there: nothing is held (Kernel.start)."""
    alike = {key: next(part[key] for part in parts if key in part) for key in keys}
    sizes = [len(next(iter(part.values()))) for part in parts]
    return {
        key: torch.cat(
            [
                part[key] if key in part else torch.zeros((n, *like.shape[1:]), dtype=like.dtype, device=like.device)
                for part, n in zip(parts, sizes, strict=True)
            ]
        )
        for key, like in alike.items()
    }


def _finite(state: State) -> Tensor:
    """Return for each row (B,) whether all of its state is finite."""
    each = [value.flatten(1).isfinite().all(1) for value in state.values()]
    return torch.stack(each).all(0).cpu()
