"""Gaussian processes x_t = alpha_t·x_0 + sigma_t·eps laid on the times at which a sampler evaluates the network.

A Path is all that a sampler's table is made of, so that one function serves DDPM and every linear SDE.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gen_ray.errors import UserError, nearest

if TYPE_CHECKING:
    from gen_ray.maths.schedules import Discrete


@dataclass(frozen=True, eq=False)
class Path:
    """A process at falling times t (M,), float64 as all five; a whole path ends at the data: t 0, alpha 1, sigma 0.

    Between the times the process is dx = f·x·dt + g·dw (Song et al. 2021, eq. 5).
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
        """Return where each step begins and where it ends, (M−1,) each."""
        columns = (self.t, self.alpha, self.sigma, self.f, self.g2)
        return Path(*(c[:-1] for c in columns)), Path(*(c[1:] for c in columns))

    def to_data(self) -> "Path":
        """Return the path with the data as its last point."""
        ends = zip((self.t, self.alpha, self.sigma, self.f, self.g2), (0.0, 1.0, 0.0, 0.0, 0.0), strict=True)
        return Path(*(torch.cat([c, c.new_full((1,), end)]) for c, end in ends))


LARGEST_SCALE = 1e18
"""Scales of x_0 and of the noise are squared and divided by in 32-bit floats, which end at 3e38."""
MOST_SIGNAL = 0.5
"""The largest alpha/sigma at which a process may end: sampling starts from noise in which the data are left out, so
that the deviation of the first x is wrong by at most 1 - 1/sqrt(1 + MOST_SIGNAL²), 11 %, for data in [-1, 1]."""


def end_fault(alpha: float, sigma: float) -> str | None:
    """Return why a process cannot end at these scales of x_0 and of the noise, or None where it can."""
    for name, value in (("alpha", alpha), ("sigma", sigma)):
        if not 1 / LARGEST_SCALE <= value <= LARGEST_SCALE:
            return f"{name} is {value:g} at t = 1; 32-bit floats need {1 / LARGEST_SCALE:g} … {LARGEST_SCALE:g}"
    if alpha > MOST_SIGNAL * sigma:
        return f"at t = 1 alpha is {alpha:.3g} and sigma is {sigma:.3g}; alpha must be at most {MOST_SIGNAL:g}·sigma"
    return None


class Process(Protocol):
    """What a sampler's table can be made for."""

    def path(self, steps: int, spacing: str = "uniform") -> Path:
        """Return steps + 1 points from noise to data, equal steps of ``spacing`` (one of GRIDS) between them.

        Raise UserError for steps out of range and for an unknown spacing.
        """
        ...


GRIDS: Mapping[str, Callable[["Discrete"], Tensor]] = {
    "uniform": lambda schedule: torch.arange(schedule.T + 1, dtype=torch.float64),
    "log_snr": lambda schedule: -schedule.log_snr,
}
"""The quantity (T+1,), rising with k, in which the steps of a grid are equal.

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


def grid(schedule: "Discrete", steps: int, name: str = "uniform") -> Tensor:
    """Return ks (steps+1,), int64, strictly decreasing from T to 0, nearly equidistant in the quantity ``name``.

    Grids other than uniform spend the steps between k=T and k=1 and then go to 0, where log_snr is infinite. Raise
    UserError for steps out of 1 … T and for an unknown name.
    """
    uniform = respace(schedule.T, steps)
    if name not in GRIDS:
        raise UserError(f"grid: unknown grid '{name}'; {nearest(name, GRIDS)}")
    if name == "uniform" or steps == 1:
        return uniform
    marks = GRIDS[name](schedule)[1:]
    wanted = marks[-1] + (marks[0] - marks[-1]) * torch.linspace(0, 1, steps, dtype=torch.float64)
    above = torch.searchsorted(marks, wanted.clamp(max=marks[-1])).clamp(1, schedule.T - 1)
    ks = above + 1 - ((wanted - marks[above - 1]) < (marks[above] - wanted)).long()
    # Where two fall on the same k, the later moves on; where that runs out of ks, the earlier make room.
    order = torch.arange(steps)
    ks = torch.maximum(torch.cummin(ks + order, 0).values - order, steps - order)
    return torch.cat([ks, ks.new_zeros(1)])
