"""Where a sampler with fewer than T steps evaluates the network: decreasing k from T to 0."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gen_ray.errors import UserError, nearest
from gen_ray.maths.schedules import Discrete

GRIDS: Mapping[str, Callable[[Discrete], Tensor]] = {
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


def grid(schedule: Discrete, steps: int, name: str = "uniform") -> Tensor:
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
