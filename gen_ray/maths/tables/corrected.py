"""Predictor-corrector tables (Song et al. 2021, arXiv 2011.13456, algorithms 2-5).

At each time the corrector comes first and the predictor takes it to the next, as in the authors' code: (correctors +
1)·steps rows, of which the last ends at x̂0.
"""

import torch
from torch import Tensor

from gen_ray.maths.paths import Path, Process
from gen_ray.maths.tables.rows import assemble, whole
from gen_ray.maths.tables.samplers import ddim
from gen_ray.maths.tables.sde import reverse_diffusion


def reverse_diffusion_pc(
    process: Process, steps: int, snr: float = 0.16, correctors: float = 1, spacing: str = "uniform"
) -> Tensor:
    """Return Langevin steps and reverse-diffusion steps in turn, (N, 12); snr > 0 is the corrector's step size."""
    return _alternate(process.path(steps, spacing), reverse_diffusion(process, steps, spacing), snr, correctors)


def ancestral_pc(
    process: Process, steps: int, snr: float = 0.16, correctors: float = 1, spacing: str = "uniform"
) -> Tensor:
    """Return Langevin steps and ancestral steps in turn, (N, 12)."""
    predictor = ddim(process, steps, eta=1.0, spacing=spacing)  # which is ancestral, on any spacing
    return _alternate(process.path(steps, spacing), predictor, snr, correctors)


def _alternate(path: Path, predictor: Tensor, snr: float, correctors: float) -> Tensor:
    t, r = path.pairs
    # VP's further factor alpha_i = 1 − beta_i is the square of what this step leaves of the signal; 1 on VE.
    shrink = t.alpha / r.alpha
    corrector = assemble(t, t, -1 / t.sigma**2, t.alpha / t.sigma**2, s=1.0, snr=snr * shrink)
    return torch.stack([*[corrector] * whole("correctors", correctors), predictor], dim=1).flatten(0, 1)
