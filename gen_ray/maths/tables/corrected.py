"""Predictor-corrector tables (Song et al. 2021, arXiv 2011.13456, algorithms 2-5).

At each time the corrector comes first and the predictor takes it to the next, as in the authors' code: (correctors +
1)·steps rows, of which the last ends at x̂0.
"""

import torch
from torch import Tensor

from gen_ray.maths.paths import Path, Process
from gen_ray.maths.tables.rows import assemble, positive_int
from gen_ray.maths.tables.samplers import ddim
from gen_ray.maths.tables.sde import reverse_diffusion


def reverse_diffusion_pc(
    process: Process, steps: int, snr: float = 0.16, correctors: float = 1, spacing: str = "uniform"
) -> Tensor:
    """Return Langevin steps and reverse-diffusion steps in turn, (N, 12); snr > 0 is the corrector's step size."""
    return _alternate(process.path(steps, spacing), reverse_diffusion(process, steps, spacing), snr, correctors)


def imputing_pc(
    process: Process, steps: int, snr: float = 0.16, correctors: float = 4, spacing: str = "log_snr"
) -> Tensor:
    """Return ``reverse_diffusion_pc`` whose Langevin steps are computed from norms, (N, 12): see rows.langevin."""
    return _alternate(
        process.path(steps, spacing), reverse_diffusion(process, steps, spacing), snr, correctors, by_norms=True
    )


def ancestral_pc(
    process: Process, steps: int, snr: float = 0.16, correctors: float = 1, spacing: str = "uniform"
) -> Tensor:
    """Return Langevin steps and ancestral steps in turn, (N, 12)."""
    predictor = ddim(process, steps, eta=1.0, spacing=spacing)  # which is ancestral, on any spacing
    return _alternate(process.path(steps, spacing), predictor, snr, correctors)


def _alternate(path: Path, predictor: Tensor, snr: float, correctors: float, *, by_norms: bool = False) -> Tensor:
    """Return the rows of a predictor (steps, 12), each after its Langevin steps x + eps·score + sqrt(2·eps)·z.

    The authors' eps is 2·(snr·‖z‖/‖score‖)² with norms that are means over a batch, a ratio of about sigma, since score
    = −eps_hat/sigma. In one example of few scalars the norms vary: the step depends on z and is long where the score is
    small: in 100 steps the variance of Gaussian data was 5.8-7.7 times too large at D = 1 and 1.9-2.6 times at D = 3.
    By sigma it is within 8 % at any D. Hence sigma, unless ``by_norms``, which mixes faster near data.
    """
    t, r = path.pairs
    # VP's further factor alpha_i = 1 − beta_i is the square of what this step leaves of the signal; 1 on VE.
    size = snr * t.alpha / r.alpha
    if by_norms:
        corrector = assemble(t, t, -1 / t.sigma**2, t.alpha / t.sigma**2, s=1.0, snr=size)
    else:
        eps = 2 * size**2  # in units of sigma²
        corrector = assemble(t, t, 1 - eps, eps * t.alpha, s=t.sigma * (2 * eps).sqrt())
    return torch.stack([*[corrector] * positive_int("correctors", correctors), predictor], dim=1).flatten(0, 1)
