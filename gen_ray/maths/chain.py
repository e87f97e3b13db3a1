"""A chain: a table of numbers with one row per network evaluation, and the stepper that advances a state by its rows.

Shapes: B batch, N table rows, R table columns; ``*shape`` the shape of an example.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from gen_ray.maths.noise import RowNoise

State = dict[str, Tensor]
"""The state of a chain between two network evaluations; the first axis of every tensor is B."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """The known part of data to be completed: known (B, *shape) stored values, mask (B, *shape) True where known."""

    known: Tensor
    mask: Tensor

    def part(self, first: int, size: int) -> "Known":
        """Return rows first … first+size−1."""
        rows = slice(first, first + size)
        return Known(known=self.known[rows], mask=self.mask[rows])


class Stepper(Protocol):
    """The update of the state by one table row, which all chains of one model share.

    It acts on each row by itself, so the rows of a batch may belong to different chains.
    """

    def start(self, noise: RowNoise, device: torch.device, known: Known | None = None) -> State:
        """Return the initial state (B, …) of the chain, drawn from the prior.

        ``known`` is the known part. The state stores it, possibly in extra entries; every tick sets the known part to
        the noise level at which the tick ends, and after the last tick it equals the given data bit for bit. A batch
        that mixes rows with and without a known part has the extra entries, which are 0 in the rows without one.
        """
        ...

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Advance every row of the state by one network evaluation along its table row; rows is (B, R)."""
        ...

    def finish(self, state: State) -> Tensor:
        """Return the data (B, *shape) as integers in {0 … levels-1}."""
        ...

    def preview(self, state: State) -> Tensor:
        """Return the current estimate of the data (B, *shape), integers; −1 where a value is not yet decided."""
        ...


@dataclass(frozen=True)
class Chain:
    """A sampler: a float64 table (N, R) with one row per network evaluation, and the stepper that executes the rows."""

    table: Tensor
    stepper: Stepper

    @property
    def nfe(self) -> int:
        """Return the number of network evaluations."""
        return len(self.table)
