"""The variational autoencoder, trained by auto-encoding variational Bayes (Kingma & Welling 2014, arXiv 1312.6114).

p(x, z) = p(x|z) N(z; 0, I), q(z|x) = N(mu(x), diag sigma²(x)); z = mu + sigma·eps, eps ~ N(0, I).
"""

from gen_ray.families.vae.config import VaeConfig
from gen_ray.families.vae.model import Vae

FAMILY = Vae

__all__ = ["FAMILY", "Vae", "VaeConfig"]
