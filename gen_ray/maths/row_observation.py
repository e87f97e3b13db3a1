"""Observation models p(x|z) of a table's rows: one distribution per column, independent given z.

Shapes: B batch, D columns, P parameters, L columns with a logistic, C columns with a categorical, K its largest number
of categories.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.maths import likelihoods
from gen_ray.maths.levels import nearest
from gen_ray.maths.observation import OBSERVATIONS, Observation, inverse_cdf, logistic_params, logistic_quantile
from gen_ray.maths.row_features import MISSING, RowFeatures, hide


class RowObservation(Observation):
    """p(x|z) of the codes (B, D) of rows, −1 where missing, with parameters (B, P).

    logistic (D,) is True at columns whose codes have a discretised logistic: a mean and a log-scale. The other columns
    have a free probability for each code: K_d logits.
    """

    undecided = MISSING

    def __init__(self, cardinalities: Tensor, ordered: Tensor, logistic: Tensor) -> None:
        """Divide the parameters among the columns: means, log-scales, then the logits of each other column."""
        super().__init__(int(cardinalities.max()), len(cardinalities))
        self.features = RowFeatures(cardinalities, ordered)
        self.logistic, self.categorical = logistic.nonzero().flatten(), (~logistic).nonzero().flatten()
        self.column_levels, self.ordered = cardinalities[self.logistic], ordered[self.categorical]
        numbers = cardinalities[self.categorical]
        first = 2 * len(self.logistic) + numbers.cumsum(0) - numbers
        code = torch.arange(int(numbers.max()) if len(numbers) else 0)
        self.parameters = 2 * len(self.logistic) + int(numbers.sum())
        # (C, K): the place of each logit; P, which is padded with −inf, where a column has fewer codes
        self.places = torch.where(code < numbers[:, None], first[:, None] + code, self.parameters)

    @property
    def out_channels(self) -> int:
        """Return P."""
        return self.parameters

    def input_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (2·F,): the features, and whether they are observed."""
        return (2 * self.features.shape[0],)

    def prepare_for_loss(self, x: Tensor, net: nn.Module, rng: torch.Generator) -> Tensor:
        """Return the codes; if net learns, some are hidden at random, so that its encoder knows incomplete rows."""
        return hide(x, rng) if net.training else x

    def kind_suffix(self, x: Tensor) -> str:
        """Return ``-partial`` if values are missing."""
        return "-partial" if bool((x == MISSING).any()) else ""

    def scaled(self, x: Tensor) -> Tensor:
        """Return the encoder's input: the features of codes x, 0 where missing, and the mask."""
        batch = self.features.read(x)
        assert batch.mask is not None
        return torch.cat([batch.x, batch.mask.to(batch.x.dtype)], dim=1)

    def stored(self, x: Tensor) -> Tensor:
        """Return codes int32."""
        return x.int()

    def _logits(self, params: Tensor) -> Tensor:
        return F.pad(params, (0, 1), value=-math.inf)[:, self.places.to(params.device)]  # (B, C, K)

    def _mean_and_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return logistic_params(params[:, : 2 * len(self.logistic)])

    def _joined(self, logistic: Tensor, categorical: Tensor) -> Tensor:
        """Return values (B, D) of all columns from those (B, L) and (B, C) of the two kinds."""
        order = torch.cat([self.logistic, self.categorical]).argsort().to(logistic.device)
        return torch.cat([logistic, categorical.to(logistic)], dim=1)[:, order]

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z) of codes, 0 where they are missing."""
        u = x.long().clamp(min=0)
        of_kind = (u[:, columns.to(x.device)] for columns in (self.logistic, self.categorical))
        ordered, other = of_kind
        mean, log_scale = self._mean_and_log_scale(params)
        logistic = likelihoods.discretised_logistic_log_prob(ordered, mean, log_scale, self.column_levels)
        categorical = likelihoods.categorical_log_prob(other, self._logits(params))
        return self._joined(logistic, categorical).masked_fill(x == MISSING, 0.0)

    def mean(self, params: Tensor) -> Tensor:
        """Return the centre of a logistic, and the expected code or, without an order, the most probable one."""
        centres = nearest(self._mean_and_log_scale(params)[0], self.column_levels)
        p = self._logits(params).softmax(-1)
        expected = (p * torch.arange(p.shape[-1], device=p.device)).sum(-1).round()
        return self._joined(centres, torch.where(self.ordered.to(p.device), expected, p.argmax(-1)))

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return codes by the inverse distribution functions."""
        of_kind = (u[:, columns.to(u.device)] for columns in (self.logistic, self.categorical))
        ordered, other = of_kind
        values = logistic_quantile(*self._mean_and_log_scale(params), ordered)
        return self._joined(nearest(values, self.column_levels), inverse_cdf(self._logits(params), other))


def observation_of(spec: DataSpec, likelihood: str | None, binarise: str | None) -> Observation:
    """Return p(x|z) of a data set. Raise UserError for a likelihood that does not suit a table.

    None is ``logistic`` for pixels. For ordered columns it is ``categorical``, which describes any number of frequent
    values: rows of Adult take 30.1 bits instead of 33.0 with ``logistic``.
    """
    if not spec.is_table:
        return OBSERVATIONS[likelihood or "logistic", binarise](spec.levels, spec.shape[0])
    if likelihood == "bernoulli":
        raise UserError(
            f"family.likelihood: bernoulli models black and white pixels; {spec.name} holds {spec.kind}, use "
            "likelihood=logistic or categorical without binarise"
        )
    cardinalities = torch.from_numpy(spec.cardinalities)
    ordered = torch.tensor([column.ordered for column in spec.columns])
    return RowObservation(cardinalities, ordered, ordered & (cardinalities > 1) & (likelihood == "logistic"))
