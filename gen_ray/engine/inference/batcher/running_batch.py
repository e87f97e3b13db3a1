"""The running batch: the rows of the next evaluation in one stacked state, rebuilt only when its rows change."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_ray.engine.inference.batcher.requests import SampleRow
from gen_ray.maths.chain import State, Stepper
from gen_ray.maths.noise import RowNoise


class RunningBatch:
    """Rows of any chains of one model, at any positions."""

    def __init__(self, device: torch.device, *, padded_rows: int | None = None) -> None:
        """With padded_rows, every evaluation is padded to this size; a row's bits then do not depend on other rows."""
        self.device, self.padded_rows = device, padded_rows
        self.rows: list[SampleRow] = []
        self.state: State = {}
        self.noise = RowNoise([], [], [])

    @property
    def stepper(self) -> Stepper:
        """Return the stepper shared by all chains of a model."""
        return self.rows[0].request.chain.stepper

    def set_rows(self, rows: Sequence[SampleRow]) -> None:
        """Make the batch consist of exactly these rows. Leaving rows keep their state; joining rows resume or start."""
        coming = {id(row) for row in rows}
        staying = [i for i, row in enumerate(self.rows) if id(row) in coming]
        if len(staying) == len(self.rows) == len(rows):
            return
        aboard = {id(row) for row in self.rows}
        for i, row in enumerate(self.rows):
            if id(row) not in coming and row.position < row.request.chain.nfe:
                row.state = {key: self.state[key][i : i + 1].clone() for key in row.keys}
        joining = [row for row in rows if id(row) not in aboard]
        parts = [_select(self.state, staying)] if staying else []
        for row in joining:
            if row.state is not None:
                parts.append(row.state)
                row.state = None
        resumed = [row for row in joining if row.keys]
        fresh = [row for row in joining if not row.keys]
        for _, group in groupby(fresh, key=lambda row: id(row.request)):
            parts.append(self._begin(list(group)))
        self.rows = [self.rows[i] for i in staying] + resumed + fresh
        self.state = _concatenate(parts, frozenset().union(*(row.keys for row in self.rows)))
        self.noise = RowNoise(
            [row.request.seed for row in self.rows], [row.index for row in self.rows], [0] * len(self.rows)
        )

    def _begin(self, rows: list[SampleRow]) -> State:
        request, first, n = rows[0].request, rows[0].index, len(rows)
        known = request.known and request.known.part(first, n)
        state = request.chain.stepper.start(RowNoise.of(request.seed, n, first=first), self.device, known)
        for row in rows:
            row.keys = frozenset(state)
        return state

    def tick(self, net: Any) -> None:
        """Advance every row by one network evaluation."""
        at = [row.position for row in self.rows]
        table = torch.from_numpy(
            np.stack([row.request.table[tick] for row, tick in zip(self.rows, at, strict=True)])  # (B, R) float64
        )
        noise = self.noise.at([position + 1 for position in at])
        padding = self.padded_rows - len(self.rows) if self.padded_rows else 0
        if padding:
            index = [*range(len(self.rows)), *[0] * padding]
            state = self.stepper.tick(net, _select(self.state, index), table[index], noise.select(index))
            self.state = {key: value[: len(self.rows)] for key, value in state.items()}
        else:
            self.state = self.stepper.tick(net, self.state, table, noise)
        for row in self.rows:
            row.position += 1

    def pop_finished(self) -> list[tuple[list[SampleRow], Tensor, bool]]:
        """Remove the finished rows and return them by request.

        Each entry has the rows of one request, their samples (B, *shape) on the CPU, and whether their state is finite.
        """
        ended = [i for i, row in enumerate(self.rows) if row.position == row.request.chain.nfe]
        if not ended:
            return []
        state = _select(self.state, ended)
        samples, finite = self.stepper.finish(state).cpu(), _finite(state)
        finished, position = [], 0
        for _, group in groupby((self.rows[i] for i in ended), key=lambda row: id(row.request)):
            rows = list(group)
            part = slice(position, position + len(rows))
            finished.append((rows, samples[part], bool(finite[part].all())))
            position += len(rows)
        self.set_rows([row for row in self.rows if row.position < row.request.chain.nfe])
        return finished

    def clear(self) -> None:
        """Remove all rows without reading the state, which is invalid after an error."""
        self.rows, self.state = [], {}

    def previews(self) -> list[tuple[SampleRow, Tensor]]:
        """Return each row and its current preview (*shape) on the CPU, −1 where undecided."""
        return list(zip(self.rows, self.stepper.preview(self.state).cpu(), strict=True)) if self.rows else []


def _select(state: State, index: list[int]) -> State:
    return {key: value[index] for key, value in state.items()}


def _concatenate(parts: list[State], keys: frozenset[str]) -> State:
    """Concatenate states along the rows; an entry that a part lacks is 0 there: nothing is known (Stepper.start)."""
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
    """Return for each row (B,) whether its whole state is finite."""
    each = [value.flatten(1).isfinite().all(1) for value in state.values()]
    return torch.stack(each).all(0).cpu()
