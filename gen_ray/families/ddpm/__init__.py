"""Denoising diffusion in discrete time (Ho et al. 2020, arXiv 2006.11239; Nichol & Dhariwal 2021, arXiv 2102.09672).

q(x_k|x_{k-1}) = N(sqrt(1−beta_k) x_{k-1}, beta_k I) is inverted by p(x_{k-1}|x_k) = N(mu(x_k, x̂_0), variance), where
mu is the mean of the posterior q(x_{k-1}|x_k, x_0) at the network's x̂_0. With ``schedule: learned`` q is learned too
(Kingma et al. 2021, arXiv 2107.00630).
"""

from gen_ray.families.ddpm.config import DdpmConfig
from gen_ray.families.ddpm.model import Ddpm

FAMILY = Ddpm

__all__ = ["FAMILY", "Ddpm", "DdpmConfig"]
