"""Gaussian processes x_t = alpha_t·x_0 + sigma_t·eps at the times at which a sampler evaluates the network.

A sampler's table depends only on a Path, so one function serves DDPM and every linear SDE.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gen_ray.errors import UserError, nearest


@dataclass(frozen=True, eq=False)
class Path:
    """A process at decreasing times t (M,); all five columns are (M,) float64.

    A complete path ends at the data: t 0, alpha 1, sigma 0. Between the times the process is dx = f·x·dt + g·dw (Song
    et al. 2021, eq. 5).
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    f: Tensor
    g2: Tensor

    @property
    def log_snr(self) -> Tensor:
        """Return ln(alpha² / sigma²), (M,), infinite at the data."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def pairs(self) -> "tuple[Path, Path]":
        """Return the start and the end of each step, (M−1,) each."""
        columns = (self.t, self.alpha, self.sigma, self.f, self.g2)
        return Path(*(c[:-1] for c in columns)), Path(*(c[1:] for c in columns))

    def to_data(self) -> "Path":
        """Return the path (M+1,) with the data appended as its last point."""
        ends = zip((self.t, self.alpha, self.sigma, self.f, self.g2), (0.0, 1.0, 0.0, 0.0, 0.0), strict=True)
        return Path(*(torch.cat([c, c.new_full((1,), end)]) for c, end in ends))


LARGEST_SCALE = 1e18
"""The largest scale of x_0 and of the noise: 32-bit floats, limited to 3e38, must hold its square and reciprocal."""
MOST_SIGNAL = 0.5
"""The largest alpha/sigma at which a process may end. Sampling starts from noise without the data's contribution, so
the standard deviation of the first x is wrong by at most 1 - 1/sqrt(1 + MOST_SIGNAL²), 11 %, for data in [-1, 1]."""


def end_fault(alpha: float, sigma: float) -> str | None:
    """Return the reason why a process cannot end at these scales of x_0 and of the noise, or None if it can."""
    for name, value in (("alpha", alpha), ("sigma", sigma)):
        if not 1 / LARGEST_SCALE <= value <= LARGEST_SCALE:
            return f"{name} is {value:g} at t = 1; 32-bit floats need {1 / LARGEST_SCALE:g} … {LARGEST_SCALE:g}"
    if alpha > MOST_SIGNAL * sigma:
        return f"at t = 1 alpha is {alpha:.3g} and sigma is {sigma:.3g}; alpha must be at most {MOST_SIGNAL:g}·sigma"
    return None


class Process(Protocol):
    """A process for which samplers' tables can be made."""

    def path(self, steps: int, spacing: str = "uniform") -> Path:
        """Return a path of steps + 1 points from noise to data, in equal steps of ``spacing`` (one of GRIDS).

        Raise UserError for steps out of range and for an unknown spacing.
        """
        ...


GRIDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda log_snr: torch.arange(len(log_snr), dtype=torch.float64),
    "log_snr": lambda log_snr: -log_snr,
}
"""The quantity (T+1,), increasing with k, in which the steps of a grid are equal; each is a function of log_snr (T+1,).

Second-order samplers default to log_snr. On a Gaussian mixture, cosine schedule, T = 1000, root mean square error of
dpmpp_2m at 20 | 40 | 80 | 160 steps: log_snr 2.3e-2 | 5e-3 | 1.4e-3 | 4e-4, uniform 3.4e-2 | 1.2e-2 | 3.5e-3 | 7e-4;
of heun: log_snr 3.4e-2 | 6.5e-3 | 1.4e-3 | 3e-4, uniform 3e-1 | 7e-2 | 5e-3 | 1e-3. The grid of Karras et
al. 2022, eq. 5, was no better than log_snr for either.
"""


def respace(T: int, steps: int) -> Tensor:
    """Return ks (steps+1,), int64, from T to 0 in equal steps up to rounding (Nichol & Dhariwal 2021, section 4).

    Raise UserError unless 1 <= steps <= T.
    """
    if not 1 <= steps <= T:
        raise UserError(f"steps: {steps} is out of range; this model takes 1 … {T}")
    left = torch.arange(steps, -1, -1)
    return (2 * T * left + steps) // (2 * steps)  # T·left/steps, rounded half up, in integers


def grid(log_snr: Tensor, steps: int, name: str = "uniform") -> Tensor:
    """Return ks (steps+1,), int64, strictly decreasing from T to 0, nearly equidistant in the quantity ``name``.

    log_snr (T+1,), float64, is that of k = 0 … T and falls with k. Grids other than uniform place steps − 1 steps
    between k=T and k=1 and a last one to k=0, where log_snr is infinite. Raise UserError for steps out of 1 … T and for
    an unknown name.
    """
    T = len(log_snr) - 1
    uniform = respace(T, steps)
    if name not in GRIDS:
        raise UserError(f"grid: unknown grid '{name}'; {nearest(name, GRIDS)}")
    if name == "uniform" or steps == 1:
        return uniform
    marks = GRIDS[name](log_snr)[1:]
    targets = marks[-1] + (marks[0] - marks[-1]) * torch.linspace(0, 1, steps, dtype=torch.float64)
    above = torch.searchsorted(marks, targets.clamp(max=marks[-1])).clamp(1, T - 1)
    ks = above + 1 - ((targets - marks[above - 1]) < (marks[above] - targets)).long()
    # Make equal ks distinct: move the later one towards 0 or, where no k is left, the earlier ones towards T.
    order = torch.arange(steps)
    ks = torch.maximum(torch.cummin(ks + order, 0).values - order, steps - order)
    return torch.cat([ks, ks.new_zeros(1)])
