"""The features of a table's rows: an ordered column is one feature of K_d levels, another column the bits of its code.

Codes are the integers (B, D) of gen_ray/tabular: {0 … K_d−1}, −1 where a value is missing. A column of only one code
is left out. Bits of a code (Chen et al. 2023, Analog Bits, arXiv 2208.04202) need ⌈log2 K_d⌉ features, the most
significant one first. Patterns of bits that are not a code become the nearest code when features are converted back. A
density over all patterns gives them a part of its mass, so a bound for the patterns is also one for the codes.

Shapes: B batch, D columns, F features, U columns without an order, W the largest number of bits of a column, K the
largest number of codes.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.dataspec import DataSpec
from gen_ray.maths.features import (
    GIVEN_ROWS,
    HIDDEN_ROWS,
    FeatureBatch,
    Features,
    GreyLevels,
    Roles,
    roles_and_values,
    uniform_in_bins,
)
from gen_ray.maths.gaussian import Prediction, Scalar
from gen_ray.maths.level_posterior import LevelPosterior
from gen_ray.maths.levels import nearest, scaled


def features_of(spec: DataSpec, bit_spread: float = 0.0, level_spread: float = 0.0) -> Features:
    """Return the features of a data set's images or rows; the spreads are those of RowFeatures."""
    if not spec.is_table:
        return GreyLevels(spec.shape, spec.levels)
    ordered = torch.tensor([column.ordered for column in spec.columns])
    cardinalities, frequencies = torch.from_numpy(spec.cardinalities), torch.from_numpy(spec.frequencies)
    return RowFeatures(cardinalities, ordered, bit_spread, frequencies, level_spread)


MISSING = -1
"""The code of a missing value."""
MOST_LISTED = 512
"""The largest number of levels of an ordered column whose levels are listed: a net then has an output for each."""


def random_cells(codes: Tensor, rows: float, rng: torch.Generator) -> Tensor:
    """Return a mask (B, D), True at a random share of the cells in a share ``rows`` of the rows."""
    row, cell = (torch.rand(shape, generator=rng, device=codes.device) for shape in ((2, len(codes), 1), codes.shape))
    return (row[0] < rows) & (cell < row[1])


def hide(codes: Tensor, rng: torch.Generator) -> Tensor:
    """Return codes (B, D) int64, of which a random share of the cells is missing in a share HIDDEN_ROWS of the rows."""
    return codes.long().masked_fill(random_cells(codes, HIDDEN_ROWS, rng), MISSING)


class RowFeatures:
    """The invertible map between codes (B, D) and features (B, F).

    cardinalities (D,) are the numbers K_d of codes; ordered (D,) is True at columns whose codes have an order.
    bit_spread is the standard deviation of the points that stand for a bit, 0 for the bit itself (``dequantised``).
    With frequencies (D, K) of the codes, the levels of ordered columns are listed (level_posterior.py). level_spread is
    then the standard deviation of the points that stand for a level, in units of half the distance of two levels.
    """

    def __init__(
        self,
        cardinalities: Tensor,
        ordered: Tensor,
        bit_spread: float = 0.0,
        frequencies: Tensor | None = None,
        level_spread: float = 0.0,
    ) -> None:
        """Lay out the features; those of a column are consecutive."""
        self.bit_spread = bit_spread
        bits = torch.tensor([int(k - 1).bit_length() for k in cardinalities.tolist()])
        widths = torch.where(ordered, (cardinalities > 1).long(), bits)
        self.D, self.column = len(widths), torch.arange(len(widths)).repeat_interleave(widths)
        self.is_bit = ~ordered[self.column]
        place = torch.arange(len(self.column)) - (widths.cumsum(0) - widths)[self.column]
        self.shift = torch.where(self.is_bit, widths[self.column] - 1 - place, 0)
        self.levels = torch.where(self.is_bit, 2, cardinalities[self.column])
        self.corners = BitCorners(cardinalities, self.column, self.is_bit, self.shift)
        listed = ~self.is_bit & (self.levels <= MOST_LISTED) & (frequencies is not None)
        self.listed, self.unlisted = listed.nonzero().flatten(), (~listed).nonzero().flatten()
        self.posterior = self._posterior(torch.zeros(self.D, 0) if frequencies is None else frequencies, level_spread)

    def _posterior(self, frequencies: Tensor, spread: float) -> LevelPosterior:
        levels = self.levels[self.listed]
        most = int(levels.max()) if len(levels) else 0
        return LevelPosterior(levels, frequencies[self.column[self.listed], :most], spread / (levels - 1))

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (F,)."""
        return (len(self.column),)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return (3·F,): the features, whether they are noisy, and whether they are given."""
        return (3 * len(self.column),)

    @property
    def output_channels(self) -> int:
        """Return the number of a net's outputs: one for each feature, and for a listed one K_d."""
        return len(self.unlisted) + self.posterior.outputs

    def read(self, data: Tensor) -> FeatureBatch:
        """Return the features of codes (B, D); all features of a missing value are missing."""
        column, is_bit = self.column.to(data.device), self.is_bit.to(data.device)
        codes = data.long()[:, column]
        mask = codes != MISSING
        u = torch.where(is_bit, (codes >> self.shift.to(data.device)) & 1, codes).masked_fill(~mask, 0)
        roles = Roles(mask, torch.zeros_like(mask))
        return FeatureBatch(u=u, x=scaled(u, self.levels).masked_fill(~mask, 0.0), roles=roles)

    def conditioned(self, batch: FeatureBatch, cells: Tensor) -> FeatureBatch:
        """Return the batch with the observed cells (B, D) as a condition of the others."""
        assert batch.mask is not None
        given = self.spread(cells) & batch.mask
        return replace(batch, roles=Roles(batch.mask & ~given, given))

    def read_for_loss(self, data: Tensor, net: nn.Module, rng: torch.Generator) -> FeatureBatch:
        """Return the features; in training, random cells of some rows are hidden, and of some rows are given."""
        if not net.training:
            return self.read(data)
        return self.conditioned(self.read(hide(data, rng)), random_cells(data, GIVEN_ROWS, rng))

    def net_input(self, x: Tensor, roles: Roles | None) -> Tensor:
        """Return x (B, F), 0 where missing, followed by both masks; (B, 3·F)."""
        if roles is None:
            return torch.cat([x, torch.ones_like(x), torch.zeros_like(x)], dim=1)
        return roles_and_values(x, roles)

    def roles_of(self, known: Tensor) -> Roles | None:
        """Return the roles in an imputation: known features are given, the others are noisy."""
        return Roles(~known, known)

    def prediction(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar, kind: Prediction) -> Tensor:
        """Return the prediction (B, F) from a net's output (B, output_channels): first of the features not listed.

        For an ordered column that is not listed it is the output itself, for a listed one E[x_0|x_t] by Bayes' rule.

        For a bit b in {−1, 1} the output h is half of the log-odds that the other features give, and Bayes' rule adds
        those of x_t = alpha·(b + spread·z) + sigma·eps itself: with variance v = alpha²·spread² + sigma²,
        E[b|x_t] = tanh(h + alpha·x_t/v), and E[x_0|x_t] = (sigma²·E[b|x_t] + alpha·spread²·x_t)/v.
        """
        device = x_t.device
        unlisted, listed = self.unlisted.to(device), self.listed.to(device)
        own, seen = output[:, : len(unlisted)], x_t[:, unlisted]
        inside = (alpha * self.bit_spread) ** 2
        variance = inside + sigma * sigma
        bit = torch.tanh(own + alpha / variance * seen)
        x_0 = (sigma * sigma * bit + inside / alpha * seen) / variance if self.bit_spread else bit
        of_bits = kind.target(x_0, (seen - alpha * x_0) / sigma, alpha, sigma)
        found = torch.where(self.is_bit[self.unlisted].to(device), of_bits, own)
        if not len(listed):
            return found
        seen = x_t[:, listed]
        x_0 = self.posterior.mean(self._log_p(output, x_t, alpha, sigma), seen, alpha, sigma)
        of_levels = kind.target(x_0, (seen - alpha * x_0) / sigma, alpha, sigma)
        return torch.cat([found, of_levels], dim=1)[:, torch.cat([unlisted, listed]).argsort()]

    def _log_p(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        """Return ln p(level|x_t) (B, L, K) of the listed features."""
        return self.posterior.log_p(output[:, len(self.unlisted) :], x_t[:, self.listed.to(x_t.device)], alpha, sigma)

    def decoder_nats(
        self, u: Tensor, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar, nats: Tensor
    ) -> Tensor:
        """Return nats (B, F), at the listed features −ln p(u|x_t) by Bayes' rule."""
        listed = self.listed.to(u.device)
        exact = self.posterior.nats(self._log_p(output, x_t, alpha, sigma), u[:, listed])
        return nats.index_copy(1, listed, exact.to(nats))

    def dequantised(self, batch: FeatureBatch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return points around x: of bits and listed levels folded normal, of other ordered columns uniform in bins.

        The normals N(±1, bit_spread²) are folded at 0, where the cells of the two bits meet, and those of a level at
        both ends of its cell. All points of missing features are 0.
        """
        x, minus_log_q = uniform_in_bins(batch.x, self.levels, rng)
        normal = torch.randn(x.shape, generator=rng, device=x.device)
        s = self.bit_spread
        size = (1 + s * normal).abs()
        entropy = ((size - 1) / s).square() / 2 + math.log(s * math.sqrt(2 * math.pi)) - F.softplus(-2 * size / s**2)
        is_bit, listed = self.is_bit.to(x.device), self.listed.to(x.device)
        x, minus_log_q = torch.where(is_bit, batch.x * size, x), torch.where(is_bit, entropy, minus_log_q)
        shift, entropy = self.posterior.points(normal[:, listed])
        x = x.index_copy(1, listed, batch.x[:, listed] + shift)
        minus_log_q = minus_log_q.index_copy(1, listed, entropy)
        return (x if batch.mask is None else x.masked_fill(~batch.mask, 0.0)), minus_log_q

    def spread(self, mask: Tensor) -> Tensor:
        """Return a mask (B, F) of features from one (B, D) of columns."""
        return mask[:, self.column.to(mask.device)]

    def cells(self, nats: Tensor) -> Tensor:
        """Return the nats (B, D) of the columns from those (B, F) of the features."""
        return nats.new_zeros(len(nats), self.D).index_add(1, self.column.to(nats.device), nats)

    def stored(self, x: Tensor) -> Tensor:
        """Return the codes (B, D) int32 nearest to features x (B, F)."""
        codes = torch.zeros(len(x), self.D, dtype=torch.int32, device=x.device)
        ordered = (~self.is_bit).to(x.device)
        values = nearest(x[:, ordered], self.levels[~self.is_bit]).int()
        codes[:, self.column[~self.is_bit].to(x.device)] = values
        return self.corners.fill(codes, x)

    def estimate(self, x_0: Tensor) -> Tensor:
        """Return the codes nearest to x_0 (B, F), −1 before the first evaluation, when all of it is 0."""
        return self.stored(x_0).masked_fill((x_0 == 0).all(1, keepdim=True), MISSING)


class BitCorners:
    """The valid corners of the cubes [−1, 1]^bits: the patterns of bits that are codes.

    The codes below K differ from the bits L of K−1, the last code, as follows: they share a number of leading bits with
    L, then have a 0 where L has a 1, and any bits after it; or they are K−1. The nearest corner of each of these sets
    (at most W+1) is known, because its free bits are the signs of x.
    """

    def __init__(self, cardinalities: Tensor, column: Tensor, is_bit: Tensor, shift: Tensor) -> None:
        """Store the bits of the last codes, padded with leading zeros to (U, W), and the places of the features."""
        self.columns = column[is_bit].unique()
        self.W = int(shift[is_bit].max()) + 1 if len(self.columns) else 0
        row = torch.searchsorted(self.columns, column[is_bit])
        self.places = row * self.W + self.W - 1 - shift[is_bit]  # in the flattened (U, W)
        self.features = is_bit.nonzero().flatten()
        self.powers = 2 ** torch.arange(self.W).flip(0)
        last = (cardinalities[self.columns, None] - 1).div(self.powers, rounding_mode="floor") % 2
        # One candidate per bit of the last code that is 1, and that code itself; (U, W+1)
        self.last = last.bool()
        self.possible = torch.cat([self.last, torch.ones(len(last), 1, dtype=torch.bool)], dim=1)

    def fill(self, codes: Tensor, x: Tensor) -> Tensor:
        """Return codes (B, D) with the nearest codes of the columns of bits, for features x (B, F)."""
        if not len(self.columns):
            return codes
        device, (U, W) = x.device, (len(self.columns), self.W)
        padded = x.new_full((len(x), U * W), -1.0)
        # Predictions are often clamped to ±1, so that two codes are equally near. Without rounding, the rounding errors
        # of another batch size would then select the other code.
        padded[:, self.places.to(device)] = (x[:, self.features.to(device)] * 2**16).round()
        margins, last = padded.view(-1, U, W), self.last.to(device)
        signs = margins > 0
        differs = margins.abs() * (signs != last)
        leading = F.pad(differs.cumsum(-1), (1, 0))  # (B, U, W+1): L up to each bit
        cleared = F.pad(margins.abs() * signs, (0, 1))
        chosen = (leading + cleared).masked_fill(~self.possible.to(device), torch.inf).argmin(-1, keepdim=True)
        place = torch.arange(W, device=device)
        bits = torch.where(place < chosen, last, signs & (place > chosen))
        codes[:, self.columns.to(device)] = (bits * self.powers.to(device)).sum(-1).int()
        return codes
