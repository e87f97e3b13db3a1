"""Weight averages (EMA) whose length is chosen after training (Karras et al. 2024, arXiv 2312.02696, section 3).

A power-function average at time t (in optimizer steps) averages the weights of times s <= t with the profile

    f(s; t, gamma) = (gamma + 1)·s^gamma / t^(gamma + 1),    0 <= s <= t,    integral 1.

Its relative width is sigma_rel, the standard deviation of s/t, which decreases with gamma. Stored averages of two
gammas at a few times span, to a good approximation, the averages of every other gamma: a least squares fit of the
profiles gives the coefficients with which the stored averages are added up.
"""

import math

import torch
from torch import Tensor

GAMMAS = (6.94, 16.97)
"""The gammas of the two stored averages: sigma_rel 0.10 and 0.05 (Karras et al. 2024, section 3.2)."""


def decay(step: int, gamma: float) -> float:
    """Return beta of average <- beta·average + (1−beta)·weights at a step counted from 1; it is 0 at step 1."""
    return (1 - 1 / step) ** (gamma + 1)


def sigma_rel(gamma: float) -> float:
    """Return the standard deviation of s/t under the profile, a Beta(gamma+1, 1): the average's relative width."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of(width: float) -> float:
    """Return the gamma whose sigma_rel is ``width``. Raise ValueError unless width is in (0, sigma_rel(0)].

    With g = gamma + 2: (g − 1)/((g + 1)·g²) = width², a cubic with one root above 2.
    """
    if not 0 < width <= sigma_rel(0.0):
        raise ValueError(f"a power-function average has a relative width in (0, {sigma_rel(0.0):.3f}], not {width}")
    low, high = 0.0, 1 / width  # sigma_rel(gamma) < 1/(gamma + 2)
    for _ in range(200):  # bisection: sigma_rel decreases with gamma
        middle = (low + high) / 2
        low, high = (middle, high) if sigma_rel(middle) > width else (low, middle)
    return (low + high) / 2


def overlap(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """Return the inner product of two profiles, the integral of their product, elementwise (float64)."""
    both = gamma_a + gamma_b + 1
    first, last = torch.minimum(t_a, t_b), torch.maximum(t_a, t_b)
    of_last = torch.where(t_a >= t_b, gamma_a, gamma_b)
    return (gamma_a + 1) * (gamma_b + 1) / both / last * (first / last) ** of_last


def coefficients(times: Tensor, gammas: Tensor, t: float, gamma: float) -> Tensor:
    """Return c (N,) float64 such that averages stored at times (N,) of gammas (N,) add up to the one of gamma at t.

    They are the least squares fit of the profiles (ibid., section 3.2), constrained to sum to one so that constant
    weights do not change. The normal equations are solved by least squares, because neighbouring profiles are nearly
    equal.
    """
    n = len(times)
    a = overlap(times[:, None], gammas[:, None], times[None], gammas[None])
    target = torch.tensor([float(t), float(gamma)], dtype=torch.float64)
    b = overlap(times, gammas, target[0].expand(n), target[1].expand(n))
    ones = torch.ones(n, 1, dtype=torch.float64)
    # Lagrange: [A 1; 1' 0] [c; l] = [b; 1]. A's entries are of the order of 1/steps; they are scaled to order one.
    scale = a.diagonal().mean()
    system = torch.cat([torch.cat([a / scale, ones], 1), torch.cat([ones.T, torch.zeros(1, 1, dtype=a.dtype)], 1)])
    right = torch.cat([b / scale, torch.ones(1, dtype=a.dtype)])
    return torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:n, 0]


def residual(times: Tensor, gammas: Tensor, t: float, gamma: float, parts: Tensor) -> float:
    """Return ‖Σ parts·f(times, gammas) − f(t, gamma)‖ / ‖f(t, gamma)‖, the relative error of the fit (L2).

    parts (N,) are ``coefficients``. If the profiles differ little, so do the averages.
    """
    at, power = (torch.tensor([float(value)], dtype=torch.float64) for value in (t, gamma))
    gram = overlap(times[:, None], gammas[:, None], times[None], gammas[None])
    norm = overlap(at, power, at, power)
    square = parts @ gram @ parts - 2 * parts @ overlap(times, gammas, at, power) + norm
    return math.sqrt(max(0.0, float(square / norm)))


def width(times: Tensor, gammas: Tensor, t: float, parts: Tensor) -> float:
    """Return the relative width of Σ parts·f(times, gammas): the standard deviation of s/t, like sigma_rel.

    The moments of f(s; t_i, gamma_i) are t_i·(gamma_i + 1)/(gamma_i + 2) and t_i²·(gamma_i + 1)/(gamma_i + 3). NaN
    if the variance, a sum with negative terms, is not positive.
    """
    mean = float(parts @ (times * (gammas + 1) / (gammas + 2))) / t
    square = float(parts @ (times**2 * (gammas + 1) / (gammas + 3))) / t**2
    variance = square - mean**2
    return math.sqrt(variance) if variance > 0 else math.nan
