"""The tables of the samplers of a discrete Gaussian chain, each (N, 8) float64, N the number of network evaluations.

Below, t is a row's time and r the next one, nearer to data. ``spacing`` is one of grids.GRIDS. All raise UserError for
steps out of 1 … T and for unknown names.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

import torch
from torch import Tensor

from gen_ray.errors import UserError, nearest
from gen_ray.maths.gaussian import posterior_between
from gen_ray.maths.schedules import Discrete
from gen_ray.maths.tables.grids import grid, respace
from gen_ray.maths.tables.rows import assemble


class Variance(StrEnum):
    """The variance of an ancestral step: beta_tilde, beta, or between them in log space by the network's v."""

    SMALL = "small"
    LARGE = "large"
    LEARNED = "learned"


VARIANCES: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    Variance.SMALL: lambda beta, beta_tilde: (beta_tilde, beta_tilde),
    Variance.LARGE: lambda beta, beta_tilde: (beta, beta),
    Variance.LEARNED: lambda beta, beta_tilde: (beta_tilde, beta),
}
"""The smallest and the largest variance of an ancestral step, of beta and beta_tilde."""


def ancestral(schedule: Discrete, steps: int, variance: str = Variance.SMALL) -> Tensor:
    """Return DDPM's own sampler (Ho et al. 2020, alg. 2), respaced if steps < T (Nichol & Dhariwal 2021, section 4).

    variance is a Variance or its name; ``learned`` is ibid., eq. 15.
    """
    if variance not in VARIANCES:
        raise UserError(f"variance: unknown variance '{variance}'; {nearest(variance, VARIANCES)}")
    t, r = _pairs(respace(schedule.T, steps))
    q = posterior_between(schedule.alpha[r], schedule.sigma[r], schedule.alpha[t], schedule.sigma[t])
    beta = 1 - schedule.alpha_bar[t] / schedule.alpha_bar[r]
    smallest, largest = VARIANCES[variance](beta, q.variance)
    noisy = r > 0  # the last row ends at the mean
    spread = torch.where(noisy, 0.5 * (largest / smallest).log(), 0.0)
    return assemble(*_marginal(schedule, t), q.coef_x, q.coef_x0, 0.0, torch.where(noisy, smallest.sqrt(), 0.0), spread)


def ddim(schedule: Discrete, steps: int, eta: float = 0.0, spacing: str = "uniform") -> Tensor:
    """Return DDIM (Song et al. 2021, eq. 12 and 16): deterministic at eta = 0, ancestral with ``small`` at eta = 1.

    Raise UserError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta: {eta} is out of range; it must be in 0 … 1")
    t, r = _pairs(grid(schedule, steps, spacing))
    alpha, sigma = schedule.alpha, schedule.sigma
    s = eta * posterior_between(alpha[r], sigma[r], alpha[t], sigma[t]).variance.sqrt()
    a = (sigma[r] ** 2 - s**2).clamp(min=0).sqrt() / sigma[t]
    return assemble(*_marginal(schedule, t), a, alpha[r] - a * alpha[t], 0.0, s)


def dpmpp_2m(schedule: Discrete, steps: int, spacing: str = "log_snr") -> Tensor:
    """Return DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, alg. 2): second order, deterministic."""
    t, r = _pairs(grid(schedule, steps, spacing))
    alpha, sigma = schedule.alpha, schedule.sigma
    h = (schedule.log_snr[r] - schedule.log_snr[t]) / 2  # infinite in the last row
    # The slope of x̂0 is extrapolated from the row before: none at the first, none in the last, which ends at x̂0.
    slope = torch.zeros_like(h)
    slope[1:-1] = h[1:-1] / (2 * h[:-2])
    gain = -alpha[r] * torch.expm1(-h)
    return assemble(*_marginal(schedule, t), sigma[r] / sigma[t], gain * (1 + slope), -gain * slope, 0.0)


def heun(schedule: Discrete, steps: int, spacing: str = "log_snr") -> Tensor:
    """Return Heun's method on the probability-flow ODE (Karras et al. 2022, alg. 1): 2·steps - 1 rows, second order.

    With y = x/alpha and w = sigma/alpha the ODE is dy/dw = (y - x̂0)/w. An Euler row to r is a DDIM row. The correction
    at r averages both slopes; written out, the old y drops out of it: y ← y + (w_t - w_r)/(2·w_r)·(x̂0 - x̂0⁻).
    """
    t, r = _pairs(grid(schedule, steps, spacing))
    alpha, sigma = schedule.alpha, schedule.sigma
    a = sigma[r] / sigma[t]
    euler = assemble(*_marginal(schedule, t), a, alpha[r] - a * alpha[t], 0.0, 0.0)
    gain = alpha[r] * (alpha[r] * sigma[t] / (sigma[r] * alpha[t]) - 1) / 2
    correction = assemble(*_marginal(schedule, r), torch.ones_like(a), gain, -gain, 0.0)
    return torch.stack([euler, correction], dim=1).flatten(0, 1)[:-1]  # the last step, to sigma = 0, is Euler's alone


def _pairs(ks: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's k and the next one's, (N,) each."""
    return ks[:-1], ks[1:]


def _marginal(schedule: Discrete, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first three columns: network time, alpha and sigma."""
    return k.double() / schedule.T, schedule.alpha[k], schedule.sigma[k]
