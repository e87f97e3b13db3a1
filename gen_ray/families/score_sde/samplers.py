"""The samplers and imputers of a score-based model, with the least number of steps for an SDE's parameters.

Some samplers are unstable or far too noisy in long steps. For Gaussian data and the exact net, the moments of a chain
follow from its table by a recursion. The least number of steps is the smallest from which on every chain is better than
a single step, whose result is a constant.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import torch
from torch import Tensor

from gen_ray.maths import tables
from gen_ray.maths.gaussian_samplers import GAUSSIAN_SAMPLERS, REPAINT, SNR
from gen_ray.maths.sampler import Sampler, TableSampler
from gen_ray.maths.sde import Sde
from gen_ray.maths.tables import Column

LEAST: Mapping[str, int] = {"pf_ode": 10, "euler_maruyama": 51, "reverse_diffusion": 40, "pc": 40}
"""The least steps on VP, VE and sub-VP with default parameters in equal steps of t; a lower limit for other SDEs."""
DEVIATIONS = (1.0, 0.2, 0.05)
MEAN = 0.3
MOST_ERROR = 1.02
"""The largest accepted error, in standard deviations of the data: a constant, their mean, has an error of 1."""
GROWTH = 1.05
"""The ratio of successive numbers of steps that are examined; neighbouring numbers hardly differ."""
LEAST_IMPUTING = 16
IMPUTING_RANGE = 14.2
"""The least steps of the imputer pc are LEAST_IMPUTING for an SDE whose ln(sigma/alpha) has this range (sub-VP's by
default, the largest of the three SDEs) or a smaller one, and grow in proportion to a larger range.

With the exact net of correlated Gaussian data, D = 2 to 16, half of them known, the standard deviations of completions
are 8 to 16 times the conditional ones in 2 steps, 1.5 to 2.7 times in 12, 1.3 to 2.0 times in 16, 1.1 to 1.3 times in
40. In steps of this length they are 2.0 to 2.3 times (D = 4) on five SDEs with ranges from 14 to 49; in 16 steps up to
7.4 times."""


def samplers(sde: Sde, n: int) -> dict[str, TableSampler]:
    """Return the samplers by name; n is the default number of steps of the reverse SDE."""
    return {
        name: one.on(sde, n, least_steps=least_steps(sde, name, one.table), summary=one.sde_summary)
        for name, one in GAUSSIAN_SAMPLERS.items()
    }


def imputers(sde: Sde, n: int) -> dict[str, TableSampler]:
    """Return the imputers by name, the default one first; n limits the default numbers of steps.

    The steps are equal in log_snr, because a replaced part carries information only near the data. At higher noise
    levels the noise hides it, and the rest would be completed to a blurred version of the known part.

    The default is the imputer that agrees better with the conditional law. Gaussian data of D scalars, variances
    falling to 1/decay, half of them known, exact net of VP, about 500 evaluations, 600 completions; root mean square of
    the standard deviations | of the errors of the means, both in units of the true standard deviations:

        D, decay    2, 10         4, 100        16, 100       64, 100       64, 1000
        repaint     0.95 | 0.01   0.91 | 0.08   0.94 | 0.05   0.94 | 0.13   1.00 | 0.27
        pc          1.22 | 0.15   1.07 | 0.07   1.08 | 0.07   1.05 | 0.16   1.21 | 0.46
        no limit    3.40 | 0.53   2.30 | 0.05   1.18 | 0.09   1.07 | 0.16   1.23 | 0.46   pc, step size by norms only
    """
    least = least_imputing_steps(sde)
    repaint = Sampler(
        default_steps=min(50, n),
        nfe_per_step=10,
        nfe_saved=9,
        summary=REPAINT,
        options={"times": (1, 50), "jump": (1, 1000)},
    )
    pc = Sampler(
        default_steps=max(least, min(100, n)),
        least_steps=least,
        nfe_per_step=5,
        summary="Song et al. 2021, appendix I.2; 1 + correctors evaluations per step",
        options=SNR | {"correctors": (1, 20)},
    )
    return {
        "repaint": TableSampler(repaint, partial(tables.repaint, sde, spacing="log_snr")),
        "pc": TableSampler(pc, partial(tables.imputing_pc, sde)),
    }


@lru_cache(maxsize=256)
def least_steps(sde: Sde, name: str, make: Callable[..., Tensor]) -> int:
    """Return the least number of steps of a sampler, by its name and the function that makes its table.

    A step is stable if it is shorter than 1/g²·(variance of x_t), for every variance of the data. The numbers of steps
    up to the one at which all steps are stable are examined; the result is above the largest with too large an error.
    """
    if name not in LEAST:
        return 1
    t = torch.logspace(math.log10(max(sde.t_min, 1e-6)), 0, 500, dtype=torch.float64)
    rate = sde.g2(t) / ((sde.alpha(t) * min(DEVIATIONS)) ** 2 + sde.sigma(t) ** 2)
    stable = max(2 * LEAST[name], math.ceil((1 - sde.t_min) * float(rate.max())))
    least = n = LEAST[name]
    while n < stable:
        longer = max(n + 1, int(n * GROWTH))
        if not error(make(sde, n), sde.prior_std) < MOST_ERROR:
            least = longer
        n = longer
    return least


def least_imputing_steps(sde: Sde) -> int:
    """Return the least number of steps of the imputer pc, whose steps are equal in ln(sigma/alpha)."""
    low, high = sde.u_range
    return max(LEAST_IMPUTING, math.ceil(LEAST_IMPUTING * (high - low) / IMPUTING_RANGE))


def error(table: Tensor, prior_std: float) -> float:
    """Return the largest 2-Wasserstein distance of a chain's samples from Gaussian data, in their standard deviations.

    table (N, 12) is that of a one-step method (c = 0). With the exact net x̂0 is affine in x.
    """
    rows = table[:, [Column.alpha, Column.sigma, Column.a, Column.b, Column.s]].tolist()
    return max(_distance(rows, prior_std, std) for std in DEVIATIONS)


def _distance(rows: list[list[float]], prior_std: float, std: float) -> float:
    mean, variance = 0.0, prior_std**2
    for alpha, sigma, a, b, s in rows:
        gain = alpha * std**2 / ((alpha * std) ** 2 + sigma**2)
        slope = a + b * gain
        mean = slope * mean + b * (1 - gain * alpha) * MEAN
        variance = slope * slope * variance + s * s
    found = math.hypot(mean - MEAN, math.sqrt(variance) - std) / std
    return found if math.isfinite(found) else math.inf
