"""Observation models p(x|z): how a pixel's parameters, channels of a decoder's output, are a law over its levels."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gen_ray.maths import likelihoods
from gen_ray.maths.levels import nearest, scaled


class Observation(ABC):
    """p(x|z) for pixels x in {0 … levels−1} given params (B, out_channels, H, W)."""

    suffix = ""
    """What the kind of a likelihood adds to its name: bits of different data are not to be ranked together."""

    def __init__(self, levels: int, channels: int) -> None:
        """Bind to the number of levels and of image channels."""
        self.levels, self.channels = levels, channels

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """Return the number of parameters of a pixel."""

    def prepare(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the data that is to be explained, (B, C, H, W) integers."""
        return x

    def seen(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the same where it is drawn by u ~ U[0, 1), which broadcasts to x; u has no effect on other data."""
        return x

    def scaled(self, x: Tensor) -> Tensor:
        """Return the encoder's input, x in [−1, 1]."""
        return scaled(x, self.levels)

    @abstractmethod
    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z), nats, elementwise (B, C, H, W)."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """Return E[x|z] rounded to a level (B, C, H, W)."""

    @abstractmethod
    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return x ~ p(x|z) by its inverse distribution function at u ~ U[0, 1), (B, C, H, W)."""


class Bernoulli(Observation):
    """Binary pixels: 1 where the grey level is above the middle (static binarisation)."""

    suffix = "-binary"

    @property
    def out_channels(self) -> int:
        """One logit a pixel."""
        return self.channels

    def prepare(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return bits (B, C, H, W)."""
        return self.seen(x, torch.empty(0))

    def seen(self, x: Tensor, u: Tensor) -> Tensor:
        """Return one where the grey level is above the middle."""
        return (x.float() / (self.levels - 1) > 0.5).to(x.dtype)

    def scaled(self, x: Tensor) -> Tensor:
        """Return bits as −1 and 1."""
        return scaled(x, 2)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z) of bits."""
        return likelihoods.bernoulli_log_prob(x.float(), params)

    def mean(self, params: Tensor) -> Tensor:
        """Return the probability of a one on the grey scale."""
        return (params.sigmoid() * (self.levels - 1)).round()

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return black or white."""
        return (u < params.sigmoid()).to(params.dtype) * (self.levels - 1)


class DynamicBernoulli(Bernoulli):
    """Binary pixels drawn anew each time: 1 with probability u/(levels−1) (Salakhutdinov & Murray 2008)."""

    def prepare(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return bits (B, C, H, W)."""
        return self.seen(x, torch.rand(x.shape, generator=rng, device=x.device))

    def seen(self, x: Tensor, u: Tensor) -> Tensor:
        """Return one with probability x/(levels−1)."""
        return (x.float() / (self.levels - 1) > u).to(x.dtype)


class Logistic(Observation):
    """A logistic density cut into level-wide bins (Salimans et al. 2017): 8-bit data, comparable bits per dim."""

    @property
    def out_channels(self) -> int:
        """Mean and log-scale of a pixel."""
        return 2 * self.channels

    def _mean_and_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = params.chunk(2, dim=1)
        # Starts at a fifth of the range; below e^-7 a bin of 8-bit data holds all the mass anyway.
        return mean, (log_scale - 1.6).clamp(min=-7.0)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return log p(x|z) of levels."""
        return likelihoods.discretised_logistic_log_prob(x, *self._mean_and_log_scale(params), self.levels)

    def mean(self, params: Tensor) -> Tensor:
        """Return the centre of the logistic."""
        return nearest(self._mean_and_log_scale(params)[0], self.levels)

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return levels by the logistic quantile function."""
        mean, log_scale = self._mean_and_log_scale(params)
        return nearest(mean + log_scale.exp() * torch.logit(u, eps=1e-7), self.levels)


class Categorical(Observation):
    """A free probability for each level of each pixel."""

    @property
    def out_channels(self) -> int:
        """One logit a level of a pixel."""
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
        cumulative = self._logits(params).double().softmax(-1).cumsum(-1)
        # searchsorted copies tensors that are not contiguous and prints a warning about it.
        levels = torch.searchsorted(cumulative.contiguous(), u.double().unsqueeze(-1).contiguous(), right=True)
        return levels.squeeze(-1).clamp(max=self.levels - 1)


OBSERVATIONS: dict[tuple[str, str | None], type[Observation]] = {
    ("bernoulli", "static"): Bernoulli,
    ("bernoulli", "dynamic"): DynamicBernoulli,
    ("logistic", None): Logistic,
    ("categorical", None): Categorical,
}
"""By (likelihood, binarisation): the pairs that go together."""
