"""Diffusion in discrete space."""

from gen_ray.families.discrete.model import DiscreteDiffusion

FAMILY = DiscreteDiffusion
