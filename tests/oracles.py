"""Models with known exact results: the output of a perfect network and of a perfect sampler."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen_ray.maths.gaussian import PREDICTIONS
from gen_ray.maths.schedules import DiscreteSchedule


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """p(x_0) = sum_m weights[m]·N(means[m], diag stds[m]²): weights (M,), means (M, D), stds (M, D), float64.

    x_t = alpha·x_0 + sigma·eps is then also a mixture; x is (…, D) and alpha, sigma broadcast against (…, 1).
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    @classmethod
    def line(cls, weights: list[float], means: list[float], stds: list[float]) -> "GaussianMixture":
        """Return a mixture in one dimension."""
        w, m, s = (torch.tensor(v, dtype=torch.float64) for v in (weights, means, stds))
        return cls(w / w.sum(), m[:, None], s[:, None])

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def variance(self) -> Tensor:
        return self.weights @ (self.stds**2 + self.means**2) - self.mean**2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        m = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[m] + self.stds[m] * z

    def _components(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln of each component's joint density (…, M), and x - mean and variance (…, M, D) of x_t."""
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64).unsqueeze(-1) for v in (alpha, sigma))
        variance = (alpha * self.stds) ** 2 + sigma**2
        offset = x.double().unsqueeze(-2) - alpha * self.means
        log_prob = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        return self.weights.log() + log_prob, offset, variance

    def log_prob(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """Return ln p(x_t), (…,)."""
        return self._components(x, alpha, sigma)[0].logsumexp(-1)

    def score(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """Return the gradient of ln p(x_t), (…, D)."""
        joint, offset, variance = self._components(x, alpha, sigma)
        return -(joint.softmax(-1).unsqueeze(-1) * offset / variance).sum(-2)

    def posterior_mean(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return E[x_0 | x_t = x], (…, D)."""
        joint, offset, variance = self._components(x, alpha, sigma)
        alpha = torch.as_tensor(alpha, dtype=torch.float64).unsqueeze(-1)
        per_component = self.means + alpha * self.stds**2 / variance * offset
        return (joint.softmax(-1).unsqueeze(-1) * per_component).sum(-2)


class OracleNet(nn.Module):
    """The perfect network of a mixture: net(x (B, *shape), t (B,)) with D = prod(shape), t = k/T."""

    def __init__(self, mixture: GaussianMixture, schedule: DiscreteSchedule, predict: str = "eps") -> None:
        super().__init__()
        self.mixture, self.schedule, self.prediction = mixture, schedule, PREDICTIONS[predict]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        k = (t.double() * self.schedule.T).round().long()
        alpha, sigma = self.schedule.alpha[k][:, None], self.schedule.sigma[k][:, None]
        flat = x.double().flatten(1)
        x_0 = self.mixture.posterior_mean(flat, alpha, sigma)
        eps = (flat - alpha * x_0) / sigma
        return self.prediction.target(x_0, eps, alpha, sigma).reshape(x.shape).to(x.dtype)
