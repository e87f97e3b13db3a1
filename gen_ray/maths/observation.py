"""Observation models p(x|z): distributions over a pixel's levels, with parameters from a decoder's output channels.

Those of a table's rows are in row_observation.py.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gen_ray.maths import likelihoods
from gen_ray.maths.levels import nearest, scaled, stored


class Observation(ABC):
    """p(x|z) for pixels x in {0 … levels−1} given params (B, out_channels, H, W)."""

    suffix = ""
    """A suffix of the likelihood's kind: likelihoods of differently prepared data must not be ranked together."""
    undecided = 0
    """The value of a scalar that is not yet generated."""

    def __init__(self, levels: int, channels: int) -> None:
        """Store the number of levels and of image channels."""
        self.levels, self.channels = levels, channels

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """Return the number of parameters per pixel."""

    def input_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the encoder's input for stored examples of this shape."""
        return shape

    def stored(self, x: Tensor) -> Tensor:
        """Return levels x in the dtype of stored data."""
        return stored(x, self.levels)

    def kind_suffix(self, x: Tensor) -> str:
        """Return the end of the kind of the likelihood of prepared data x."""
        return self.suffix

    def prepare(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the data that p(x|z) models, (B, C, H, W) integers."""
        return x

    def prepare_for_loss(self, x: Tensor, net: nn.Module, rng: torch.Generator) -> Tensor:
        """Return the data of ``prepare`` for the training loss of a net."""
        return self.prepare(x, rng)

    def seen(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the data of ``prepare``, with u ~ U[0, 1) that broadcasts to x in place of the random draw.

        u has no effect if the data are not binarised at random.
        """
        return x

    def scaled(self, x: Tensor) -> Tensor:
        """Return the encoder's input, x in [−1, 1]."""
        return scaled(x, self.levels)

    @abstractmethod
    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z), nats, elementwise (B, C, H, W)."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """Return E[x|z] (B, C, H, W), rounded to a level."""

    @abstractmethod
    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return x ~ p(x|z) (B, C, H, W): the inverse distribution function at u ~ U[0, 1) of the same shape."""


class Bernoulli(Observation):
    """Binary pixels: 1 where the grey level is above the middle (static binarisation)."""

    suffix = "-binary"

    @property
    def out_channels(self) -> int:
        """Return one logit per image channel."""
        return self.channels

    def prepare(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return bits (B, C, H, W)."""
        return self.seen(x, torch.empty(0))

    def seen(self, x: Tensor, u: Tensor) -> Tensor:
        """Return 1 where the grey level is above the middle, else 0."""
        return (x.float() / (self.levels - 1) > 0.5).to(x.dtype)

    def scaled(self, x: Tensor) -> Tensor:
        """Return bits as −1 and 1."""
        return scaled(x, 2)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z) of bits."""
        return likelihoods.bernoulli_log_prob(x.float(), params)

    def mean(self, params: Tensor) -> Tensor:
        """Return the probability of 1, scaled to grey levels."""
        return (params.sigmoid() * (self.levels - 1)).round()

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return 0 (black) or levels−1 (white)."""
        return (u < params.sigmoid()).to(params.dtype) * (self.levels - 1)


class DynamicBernoulli(Bernoulli):
    """Binary pixels, drawn again at each use: 1 with probability u/(levels−1) (Salakhutdinov & Murray 2008)."""

    def prepare(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return bits (B, C, H, W)."""
        return self.seen(x, torch.rand(x.shape, generator=rng, device=x.device))

    def seen(self, x: Tensor, u: Tensor) -> Tensor:
        """Return 1 with probability x/(levels−1), else 0."""
        return (x.float() / (self.levels - 1) > u).to(x.dtype)


class Logistic(Observation):
    """A logistic density integrated over the bins of the levels (Salimans et al. 2017): comparable bits per dim."""

    @property
    def out_channels(self) -> int:
        """Return two parameters per image channel: mean and log-scale."""
        return 2 * self.channels

    def _mean_and_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return logistic_params(params)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z) of levels."""
        return likelihoods.discretised_logistic_log_prob(x, *self._mean_and_log_scale(params), self.levels)

    def mean(self, params: Tensor) -> Tensor:
        """Return the centre of the logistic."""
        return nearest(self._mean_and_log_scale(params)[0], self.levels)

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return levels by the logistic quantile function."""
        mean, log_scale = self._mean_and_log_scale(params)
        return nearest(logistic_quantile(mean, log_scale, u), self.levels)


class Categorical(Observation):
    """A free probability for each level of each pixel."""

    @property
    def out_channels(self) -> int:
        """Return one logit per level and image channel."""
        return self.levels * self.channels

    def _logits(self, params: Tensor) -> Tensor:
        return params.unflatten(1, (self.channels, self.levels)).movedim(2, -1)  # (B, C, H, W, K)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z) of levels."""
        return likelihoods.categorical_log_prob(x.long(), self._logits(params))

    def mean(self, params: Tensor) -> Tensor:
        """Return the expected level."""
        p = self._logits(params).softmax(-1)
        return (p * torch.arange(self.levels, device=p.device)).sum(-1).round()

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return levels by the inverse distribution function."""
        return inverse_cdf(self._logits(params), u)


def logistic_params(params: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-scale of logistics, the halves of params along axis 1."""
    mean, log_scale = params.chunk(2, dim=1)
    # The initial scale is e^-1.6 = 0.2; below e^-7 one bin of 8-bit data has all the mass anyway.
    return mean, (log_scale - 1.6).clamp(min=-7.0)


def logistic_quantile(mean: Tensor, log_scale: Tensor, u: Tensor) -> Tensor:
    """Return the logistic's quantile function at u in [0, 1], the shape of mean."""
    return mean + log_scale.exp() * torch.logit(u, eps=1e-7)


def inverse_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """Return categories, the shape of u in [0, 1], by the inverse distribution functions of logits (*u.shape, K)."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # searchsorted copies tensors that are not contiguous and warns about it.
    levels = torch.searchsorted(cumulative.contiguous(), u.double().unsqueeze(-1).contiguous(), right=True)
    return torch.minimum(levels.squeeze(-1), (logits > -torch.inf).sum(-1) - 1)


OBSERVATIONS: dict[tuple[str, str | None], type[Observation]] = {
    ("bernoulli", "static"): Bernoulli,
    ("bernoulli", "dynamic"): DynamicBernoulli,
    ("logistic", None): Logistic,
    ("categorical", None): Categorical,
}
"""Observation models by (likelihood, binarisation); other pairs are invalid."""
