"""What a categorical net has to know of the data."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CategoricalLayout:
    """The shape of an example, its numbers of categories, and the symbols of a net's input.

    levels: K, the largest number of categories of a position. symbols: S, the number of input symbols; those from K on
    are masks. causal: whether the prediction of a position may use the positions before it only. For tables also
    cardinalities (D,), the number K_d of categories of each column; positions (D, K), the place of each category among
    the values of an ordered column, in [−1, 1], NaN elsewhere; frequencies (D, K), those of the training data; and
    own_weights (D, K), True at the categories whose weights are not a function of their position only.
    """

    shape: tuple[int, ...]
    levels: int
    symbols: int
    causal: bool = False
    cardinalities: Tensor | None = None
    positions: Tensor | None = None
    frequencies: Tensor | None = None
    own_weights: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """Return a mask (D, K), True at the categories that a column has."""
        assert self.cardinalities is not None
        return torch.arange(self.levels) < self.cardinalities[:, None]
