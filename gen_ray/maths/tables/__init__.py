"""Samplers of Gaussian chains as tables: one row of numbers per network evaluation, one update for all of them."""

from gen_ray.maths.tables.grids import GRIDS, grid, respace
from gen_ray.maths.tables.rows import Column, apply
from gen_ray.maths.tables.samplers import Variance, ancestral, ddim, dpmpp_2m, heun

__all__ = ["GRIDS", "Column", "Variance", "ancestral", "apply", "ddim", "dpmpp_2m", "grid", "heun", "respace"]
