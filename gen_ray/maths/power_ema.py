"""Averages of weights whose length is chosen after training (Karras et al. 2024, arXiv 2312.02696, section 3).

A power-function average at time t (in optimizer steps) weighs the weights of time s <= t by a profile that is a power:

    f(s; t, gamma) = (gamma + 1)·s^gamma / t^(gamma + 1),    0 <= s <= t,    integral 1.

Its width in proportion to t is sigma_rel, the standard deviation of s/t, which falls as gamma rises. Averages of two
gammas kept at a few times span, to a good approximation, the averages of every other gamma: their profiles' least
squares fit gives the coefficients, and the stored averages are added up with them.
"""

import math

import torch
from torch import Tensor

GAMMAS = (6.94, 16.97)
"""The two averages kept: sigma_rel 0.10 and 0.05 (Karras et al. 2024, section 3.2)."""


def decay(step: int, gamma: float) -> float:
    """Return beta of average <- beta·average + (1−beta)·weights at a step counted from 1, where it is 0."""
    return (1 - 1 / step) ** (gamma + 1)


def sigma_rel(gamma: float) -> float:
    """Return the standard deviation of s/t under the profile, a Beta(gamma+1, 1): the average's relative width."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of(width: float) -> float:
    """Return the gamma whose sigma_rel is width, in (0, sigma_rel(0)]. Raise ValueError for others.

    With g = gamma + 2: (g − 1)/((g + 1)·g²) = width², a cubic with one root above 2.
    """
    if not 0 < width <= sigma_rel(0.0):
        raise ValueError(f"a power-function average has a relative width in (0, {sigma_rel(0.0):.3f}], not {width}")
    low, high = 0.0, 1 / width  # sigma_rel(gamma) < 1/(gamma + 2)
    for _ in range(200):  # bisection: sigma_rel falls with gamma
        middle = (low + high) / 2
        low, high = (middle, high) if sigma_rel(middle) > width else (low, middle)
    return (low + high) / 2


def overlap(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """Return the integral of the product of two profiles, elementwise (float64); it is their inner product."""
    both = gamma_a + gamma_b + 1
    first, last = torch.minimum(t_a, t_b), torch.maximum(t_a, t_b)
    of_last = torch.where(t_a >= t_b, gamma_a, gamma_b)
    return (gamma_a + 1) * (gamma_b + 1) / both / last * (first / last) ** of_last


def coefficients(times: Tensor, gammas: Tensor, t: float, gamma: float) -> Tensor:
    """Return c (N,) float64 by which averages kept at times (N,) of gammas (N,) add up to the one of gamma at t.

    The least squares fit of the profiles (ibid., section 3.2), constrained to weights that sum to one: a constant net
    stays what it is. Solved by least squares on the normal equations, since neighbouring profiles nearly coincide.
    """
    n = len(times)
    a = overlap(times[:, None], gammas[:, None], times[None], gammas[None])
    wanted = torch.tensor([float(t), float(gamma)], dtype=torch.float64)
    b = overlap(times, gammas, wanted[0].expand(n), wanted[1].expand(n))
    ones = torch.ones(n, 1, dtype=torch.float64)
    # Lagrange: [A 1; 1' 0] [c; l] = [b; 1]. Scaled so that A's entries, which are 1/steps, are of the order of one.
    scale = a.diagonal().mean()
    system = torch.cat([torch.cat([a / scale, ones], 1), torch.cat([ones.T, torch.zeros(1, 1, dtype=a.dtype)], 1)])
    right = torch.cat([b / scale, torch.ones(1, dtype=a.dtype)])
    return torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:n, 0]


def residual(times: Tensor, gammas: Tensor, t: float, gamma: float, parts: Tensor) -> float:
    """Return ‖Σ parts·f(times, gammas) − f(t, gamma)‖ / ‖f(t, gamma)‖, the fit's error as a share of the profile (L2).

    parts (N,) are ``coefficients``. Where the profiles differ by little, so do the averages.
    """
    at, power = (torch.tensor([float(value)], dtype=torch.float64) for value in (t, gamma))
    kept = overlap(times[:, None], gammas[:, None], times[None], gammas[None])
    wanted = overlap(at, power, at, power)
    square = parts @ kept @ parts - 2 * parts @ overlap(times, gammas, at, power) + wanted
    return math.sqrt(max(0.0, float(square / wanted)))


def width(times: Tensor, gammas: Tensor, t: float, parts: Tensor) -> float:
    """Return the relative width of Σ parts·f(times, gammas): the standard deviation of s/t, as sigma_rel of a profile.

    The moments of f(s; t_i, gamma_i) are t_i·(gamma_i + 1)/(gamma_i + 2) and t_i²·(gamma_i + 1)/(gamma_i + 3). NaN
    where the variance, a sum with negative parts, is not positive.
    """
    mean = float(parts @ (times * (gammas + 1) / (gammas + 2))) / t
    square = float(parts @ (times**2 * (gammas + 1) / (gammas + 3))) / t**2
    variance = square - mean**2
    return math.sqrt(variance) if variance > 0 else math.nan
