"""Tables of the reverse-time SDE and its probability-flow ODE (Song et al. 2021, arXiv 2011.13456, eq. 6 and 13).

With the score (alpha·x̂0 − x)/sigma² every discretisation is a row in x and x̂0. All tables are (N, 12), float64. The
last row, to sigma = 0, is not a step of the SDE; it ends at x̂0, as the denoising step of Song et al., appendix G. The
functions raise UserError as those of samplers.py.
"""

import torch
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.maths.paths import Path, Process
from gen_ray.maths.tables.rows import assemble


def euler_maruyama(process: Process, steps: int, spacing: str = "uniform") -> Tensor:
    """Return Euler-Maruyama steps of the reverse SDE: x ← x − (f·x − g²·score)·dt + g·sqrt(dt)·z, dt > 0 (eq. 6)."""
    t, r = process.path(steps, spacing).pairs
    dt = t.t - r.t
    return _step(t, r, 1 - t.f * dt, t.g2 * dt, t.g2 * dt)


def pf_ode(process: Process, steps: int, spacing: str = "uniform") -> Tensor:
    """Return Euler steps of the probability-flow ODE: x ← x − (f·x − ½g²·score)·dt (eq. 13)."""
    t, r = process.path(steps, spacing).pairs
    dt = t.t - r.t
    return _step(t, r, 1 - t.f * dt, t.g2 * dt / 2, torch.zeros_like(dt))


def reverse_diffusion(process: Process, steps: int, spacing: str = "uniform") -> Tensor:
    """Return the reverse diffusion sampler: x ← (2 − m)·x + V·score + sqrt(V)·z (ibid., eq. 46, appendix E).

    It reverses the exact forward step q(x_t | x_r) = N(m·x_r, V·I).
    """
    t, r = process.path(steps, spacing).pairs
    m = t.alpha / r.alpha
    variance = t.sigma**2 - (m * r.sigma) ** 2
    return _step(t, r, 2 - m, variance, variance)


def adaptive(process: Process, steps: int = 1, rtol: float = 1e-4) -> Tensor:
    """Return one row (1, 12) for the whole flow, which a stepper with a solver solves to rtol.

    Raise UserError unless steps = 1, because the solver chooses its steps itself.
    """
    if steps != 1:
        raise UserError(f"steps: {steps} is out of range; an adaptive solver takes 1 and chooses its own")
    t, r = process.path(1).pairs
    return assemble(t, r, 0.0, 1.0, rtol=rtol)


def _step(t: Path, r: Path, scale: Tensor, drift: Tensor, variance: Tensor) -> Tensor:
    """Return rows x ← scale·x + drift·score + sqrt(variance)·z, with x ← x̂0 as the last row."""
    inner = r.sigma > 0
    a = torch.where(inner, scale - drift / t.sigma**2, 0.0)
    b = torch.where(inner, drift * t.alpha / t.sigma**2, 1.0)
    return assemble(t, r, a, b, s=torch.where(inner, variance.sqrt(), 0.0))
