"""The Gaussian process x_t = alpha·x_0 + sigma·eps: its marginals, posteriors and prediction targets.

alpha and sigma are numbers or tensors that broadcast against x, such as (B, 1, 1, 1). Nothing here assumes
alpha² + sigma² = 1, so the same formulas serve DDPM, VP, VE and sub-VP.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from gen_ray.maths.schedules import DiscreteSchedule

Scalar = Tensor | float


def diffuse(x_0: Tensor, eps: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """Return x_t ~ q(x_t | x_0), the shape of x_0, for eps ~ N(0, I) (Ho et al. 2020, eq. 4)."""
    return alpha * x_0 + sigma * eps


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(coef_x·x_t + coef_x0·x_0, variance·I)."""

    coef_x: Tensor
    coef_x0: Tensor
    variance: Tensor


def posterior_between(alpha_s: Tensor, sigma_s: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Posterior:
    """Return q(x_s | x_t, x_0) for times s < t (s nearer to the data), elementwise (Kingma et al. 2021, eq. 25-27)."""
    scale = alpha_t / alpha_s
    variance = sigma_t**2 - (scale * sigma_s) ** 2  # of q(x_t | x_s)
    return Posterior(
        coef_x=scale * sigma_s**2 / sigma_t**2,
        coef_x0=alpha_s * variance / sigma_t**2,
        variance=variance * sigma_s**2 / sigma_t**2,
    )


def posterior(schedule: DiscreteSchedule, k: int | Tensor) -> Posterior:
    """Return q(x_{k-1} | x_k, x_0) for k in 1 … T, with the shape of k, float64 (Ho et al. 2020, eq. 6-7)."""
    return posterior_between(schedule.alpha[k - 1], schedule.sigma[k - 1], schedule.alpha[k], schedule.sigma[k])


class Prediction(Protocol):
    """The quantity that a network predicts. All tensors have the shape of x_t; sigma > 0 and alpha > 0."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        """Return the network's target at x_t = alpha·x_0 + sigma·eps."""
        ...

    def to_x_0(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        """Return the x_0 that the output implies."""
        ...

    def to_eps(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        """Return the noise that the output implies."""
        ...


class _Eps:
    """The noise (Ho et al. 2020)."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return eps

    def to_x_0(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return (x_t - sigma * output) / alpha

    def to_eps(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return output


class _X0:
    """The data."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return x_0

    def to_x_0(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return output

    def to_eps(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return (x_t - alpha * output) / sigma


class _V:
    """The velocity alpha·eps - sigma·x_0 (Salimans & Ho 2022, appendix D), at any alpha² + sigma²."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return alpha * eps - sigma * x_0

    def to_x_0(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return (alpha * x_t - sigma * output) / (alpha * alpha + sigma * sigma)

    def to_eps(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        return (sigma * x_t + alpha * output) / (alpha * alpha + sigma * sigma)


PREDICTIONS: Mapping[str, Prediction] = {"eps": _Eps(), "x_0": _X0(), "v": _V()}
"""The prediction types by name."""
