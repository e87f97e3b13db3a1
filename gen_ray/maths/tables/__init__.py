"""Samplers of Gaussian chains as tables: one row of numbers per network evaluation, and one update for all samplers."""

from gen_ray.maths.paths import GRIDS, Path, Process, grid, respace
from gen_ray.maths.tables.corrected import ancestral_pc, imputing_pc, reverse_diffusion_pc
from gen_ray.maths.tables.resampled import repaint, repaint_low_noise, resample
from gen_ray.maths.tables.rows import Column, apply, spread
from gen_ray.maths.tables.samplers import Variance, ancestral, ddim, dpmpp_2m, heun
from gen_ray.maths.tables.sde import adaptive, euler_maruyama, pf_ode, reverse_diffusion

__all__ = [
    "GRIDS",
    "Column",
    "Path",
    "Process",
    "Variance",
    "adaptive",
    "ancestral",
    "ancestral_pc",
    "apply",
    "ddim",
    "dpmpp_2m",
    "euler_maruyama",
    "grid",
    "heun",
    "imputing_pc",
    "pf_ode",
    "repaint",
    "repaint_low_noise",
    "resample",
    "respace",
    "reverse_diffusion",
    "reverse_diffusion_pc",
    "spread",
]
