"""The samplers and imputers of a score-based model: their tables and descriptions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from gen_ray.families.score_sde.least_steps import least_imputing_steps, least_steps
from gen_ray.family import Sampler
from gen_ray.maths import tables
from gen_ray.maths.sde import Sde

Maker = Callable[..., Tensor]
SNR = {"snr": (0.01, 1.0)}
SAMPLERS: Mapping[str, Maker] = {
    "ddim": tables.ddim,
    "dpmpp_2m": tables.dpmpp_2m,
    "heun": tables.heun,
    "pf_ode": tables.pf_ode,
    "adaptive": tables.adaptive,
    "euler_maruyama": tables.euler_maruyama,
    "reverse_diffusion": tables.reverse_diffusion,
    "ancestral": tables.ancestral,
    "pc": tables.reverse_diffusion_pc,
    "pc_ancestral": tables.ancestral_pc,
}
"""The table functions of the samplers by name; each takes the SDE, steps and its options."""
IMPUTERS: Mapping[str, Maker] = {
    "repaint": partial(tables.repaint, spacing="log_snr"),
    "pc": tables.imputing_pc,
}
"""The table functions of the imputers by name, the default one first.

The steps are equal in log_snr, because a replaced part carries information only near the data. At higher noise levels
the noise hides it, and the rest would be completed to a blurred version of the known part.

The default is the imputer that agrees better with the conditional law. Gaussian data of D scalars, variances falling to
1/decay, half of them known, exact net of VP, about 500 evaluations, 600 completions; root mean square of the standard
deviations | of the errors of the means, both in units of the true standard deviations:

    D, decay    2, 10         4, 100        16, 100       64, 100       64, 1000
    repaint     0.95 | 0.01   0.91 | 0.08   0.94 | 0.05   0.94 | 0.13   1.00 | 0.27
    pc          1.22 | 0.15   1.07 | 0.07   1.08 | 0.07   1.05 | 0.16   1.21 | 0.46
    no limit    3.40 | 0.53   2.30 | 0.05   1.18 | 0.09   1.07 | 0.16   1.23 | 0.46   pc, step size by norms only
"""


def samplers(sde: Sde, n: int) -> dict[str, Sampler]:
    """Return the descriptions of SAMPLERS by name; n is the default number of steps of the reverse SDE.

    The default steps balance cost and bias, measured as a ratio of variances with the exact net, the worst of VP, VE
    and sub-VP: heun 1.14 at 20 steps, 1.05 at 30; dpmpp_2m 1.06 at 20, 1.02 at 30. The error of first-order methods
    only halves when the cost doubles: ddim 0.87 at 50 steps, 0.93 at 100; pf_ode on VE 0.85 at 200, 0.89 at 300.
    """
    twenty, thirty, fifty, many = (min(steps, n) for steps in (20, 30, 50, 200))
    descriptions: dict[str, dict[str, Any]] = {
        "ddim": {"default_steps": fifty, "summary": "Song et al. 2021, eq. 12", "options": {"eta": (0.0, 1.0)}},
        "dpmpp_2m": {"default_steps": twenty, "summary": "Lu et al. 2022, alg. 2"},
        "heun": {"default_steps": thirty, "nfe_per_step": 2, "nfe_saved": 1, "summary": tables.HEUN},
        "pf_ode": {"default_steps": many, "summary": "probability-flow ODE, Song et al. 2021, eq. 13, by Euler"},
        "adaptive": {
            "default_steps": 1,
            "adaptive": True,
            "summary": "Song et al. 2021, eq. 13, by Dormand & Prince 1980, with adaptive steps for each image",
            "options": {"rtol": (1e-5, 0.01)},
        },
        "euler_maruyama": {"summary": "reverse SDE, Song et al. 2021, eq. 6"},
        "reverse_diffusion": {"summary": "Song et al. 2021, eq. 46"},
        "ancestral": {"summary": "Song et al. 2021, appendix F"},
        "pc": {"nfe_per_step": 2, "summary": "Song et al. 2021, alg. 2-5", "options": SNR},
        "pc_ancestral": {
            "nfe_per_step": 2,
            "summary": "pc with the predictor of Song et al. 2021, appendix F",
            "options": SNR,
        },
    }
    found = {}
    for name, description in descriptions.items():
        settings = {"default_steps": n, "nfe_per_step": 1, **description}
        least = least_steps(sde, name, SAMPLERS[name])
        settings |= {"default_steps": max(least, settings["default_steps"]), "least_steps": least}
        found[name] = Sampler(**settings)
    return found


def imputers(sde: Sde, n: int) -> dict[str, Sampler]:
    """Return the descriptions of IMPUTERS by name; n limits the default numbers of steps."""
    least = least_imputing_steps(sde)
    return {
        "repaint": Sampler(
            default_steps=min(50, n),
            nfe_per_step=10,
            nfe_saved=9,
            summary="Lugmayr et al. 2022, alg. 1: every block of jump steps repeated (nfe per step: times)",
            options={"times": (1, 50), "jump": (1, 1000)},
        ),
        "pc": Sampler(
            default_steps=max(least, min(100, n)),
            least_steps=least,
            nfe_per_step=5,
            summary="Song et al. 2021, appendix I.2; 1 + correctors evaluations per step",
            options=SNR | {"correctors": (1, 20)},
        ),
    }
