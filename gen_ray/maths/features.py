"""The features that Gaussian models see of stored data: the grey levels of images, and ordered values and bits of rows.

Shapes: B batch, D columns of a table, F features, W the largest number of bits of a column.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gen_ray.maths.gaussian import Prediction, Scalar
from gen_ray.maths.levels import Levels, nearest, scaled, spacing, stored

HIDDEN_ROWS = 0.1
"""The share of training rows of which random cells are hidden, so that the net also knows incomplete rows."""
GIVEN_ROWS = 1 / 3
"""The share of training rows of which random cells are given without noise, so that the net knows conditionals."""


class Roles(NamedTuple):
    """Masks (B, *shape): ``noisy`` is True where x_t is noisy, ``given`` where it is x_0 itself; others are missing."""

    noisy: Tensor
    given: Tensor


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """Features of stored data: u (B, *shape) integers, 0 where missing; mask (B, *shape), True at those to be modelled.

    x (B, *shape) float32 are the same features in [−1, 1], 0 where missing. roles distinguishes missing features from
    those that are given as a condition. Both are None if all features are modelled and none can be missing.
    """

    u: Tensor
    x: Tensor
    roles: Roles | None = None

    @property
    def mask(self) -> Tensor | None:
        """Return the mask of the features to be modelled; None: all."""
        return None if self.roles is None else self.roles.noisy

    def seen(self, x_t: Tensor) -> Tensor:
        """Return noisy features x_t (B, *shape) with the given ones as they are."""
        return x_t if self.roles is None else torch.where(self.roles.given, self.x, x_t)

    @property
    def suffix(self) -> str:
        """Return the end of a likelihood's kind: ``-partial`` where cells are missing."""
        return "" if self.mask is None or bool(self.mask.all()) else "-partial"


def roles_and_values(x: Tensor, roles: Roles) -> Tensor:
    """Return x (B, F), 0 where missing, followed by both masks; (B, 3·F)."""
    seen = x.masked_fill(~(roles.noisy | roles.given), 0.0)
    return torch.cat([seen, *(mask.to(x.dtype) for mask in roles)], dim=1)


def uniform_in_bins(x: Tensor, levels: Levels, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return uniform points of the bins of width 2/(levels−1) around x (B, …), and ln of the width, (B, …)."""
    width = spacing(levels, x)
    log_width = width.log() if isinstance(width, Tensor) else torch.full((), math.log(width), device=x.device)
    return x + width * (torch.rand(x.shape, generator=rng, device=x.device) - 0.5), log_width.expand_as(x)


class Features(Protocol):
    """An invertible map between stored data and features; ``levels`` are the numbers of levels of the features."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an example's features."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of a net's input."""
        ...

    @property
    def levels(self) -> Levels:
        """Return the number of levels: of all features, or of each."""
        ...

    @property
    def output_channels(self) -> int:
        """Return the number of channels of a net's output, from which ``prediction`` is made."""
        ...

    def read(self, data: Tensor) -> FeatureBatch:
        """Return the features of stored data (B, *stored shape)."""
        ...

    def read_for_loss(self, data: Tensor, net: nn.Module, rng: torch.Generator) -> FeatureBatch:
        """Return the features of stored data; some are hidden at random if data can have missing values and net learns.

        A net learns if it is in training mode, as with dropout.
        """
        ...

    def net_input(self, x: Tensor, roles: Roles | None) -> Tensor:
        """Return a net's input (B, *input_shape) for features x (B, *shape); roles None: all are noisy."""
        ...

    def roles_of(self, known: Tensor) -> Roles | None:
        """Return the roles in an imputation where features are known (B, *shape) or drawn.

        None: nets do not read given features, so an imputer has to add noise to them.
        """
        ...

    def prediction(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar, kind: Prediction) -> Tensor:
        """Return the prediction (B, *shape), a quantity of this kind, from a net's output at x_t (B, *shape)."""
        ...

    def decoder_nats(
        self, u: Tensor, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar, nats: Tensor
    ) -> Tensor:
        """Return −ln p(u|x_t) of the stored levels u at a chain's last step, (B, *shape).

        nats (B, *shape) are those of a discretised Gaussian, for features without a separate decoder.
        """
        ...

    def dequantised(self, batch: FeatureBatch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a point x_0 ~ q(x_0|u) of the cell of the values u, and −ln q(x_0|u), each (B, *shape) float32.

        The cells of different values are disjoint, so E_q[−ln p(x_0) + ln q(x_0|u)] is a bound on −ln of the mass of u
        for every density p (Theis et al. 2016, arXiv 1511.01844; Hoogeboom et al. 2020, arXiv 2001.11235).
        """
        ...

    def spread(self, mask: Tensor) -> Tensor:
        """Return a mask of features (B, *shape) from one of stored scalars (B, *stored shape)."""
        ...

    def cells(self, nats: Tensor) -> Tensor:
        """Return the sums (B, *stored shape) of the nats (B, *shape) of each stored scalar's features."""
        ...

    def stored(self, x: Tensor) -> Tensor:
        """Return the stored data nearest to features x (B, *shape)."""
        ...

    def estimate(self, x_0: Tensor) -> Tensor:
        """Return the stored data nearest to a prediction x_0 (B, *shape), which is 0 before the first evaluation."""
        ...


@dataclass(frozen=True)
class GreyLevels:
    """The features of images of this shape, which are stored as such."""

    shape: tuple[int, ...]
    levels: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of an image."""
        return self.shape

    @property
    def output_channels(self) -> int:
        """Return the number of channels of an image."""
        return self.shape[0]

    def read(self, data: Tensor) -> FeatureBatch:
        """Return the grey levels, all observed."""
        return FeatureBatch(u=data, x=scaled(data, self.levels))

    def read_for_loss(self, data: Tensor, net: nn.Module, rng: torch.Generator) -> FeatureBatch:
        """Return the grey levels, all observed."""
        return self.read(data)

    def net_input(self, x: Tensor, roles: Roles | None) -> Tensor:
        """Return x."""
        return x

    def roles_of(self, known: Tensor) -> Roles | None:
        """Return None."""
        return None

    def prediction(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar, kind: Prediction) -> Tensor:
        """Return the output."""
        return output

    def decoder_nats(
        self, u: Tensor, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar, nats: Tensor
    ) -> Tensor:
        """Return nats."""
        return nats

    def dequantised(self, batch: FeatureBatch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return uniform points of the bins of width 2/(levels−1) around x, and ln of the width."""
        return uniform_in_bins(batch.x, self.levels, rng)

    def spread(self, mask: Tensor) -> Tensor:
        """Return the mask."""
        return mask

    def cells(self, nats: Tensor) -> Tensor:
        """Return nats."""
        return nats

    def stored(self, x: Tensor) -> Tensor:
        """Return the nearest levels, uint8 up to 256 levels, else int32."""
        return stored(nearest(x, self.levels), self.levels)

    def estimate(self, x_0: Tensor) -> Tensor:
        """Return the nearest levels: mid-grey before the first evaluation."""
        return self.stored(x_0)
