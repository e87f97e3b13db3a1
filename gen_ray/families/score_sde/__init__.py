"""Score-based models in continuous time (Song et al. 2021, arXiv 2011.13456; Song et al. 2021b, arXiv 2101.09258).

A linear SDE turns data into noise. A network that estimates the score ∇ln p(x_t) turns noise into data, by the reverse
SDE or by the probability-flow ODE, which also gives an exact density.

The network's input is z = x/sqrt(alpha² + sigma²), for which every SDE is variance preserving, and it predicts the
noise: the score is −eps/sigma. Its time is t, which on VE is linear in ln sigma.
"""

from gen_ray.families.score_sde.config import ScoreSdeConfig
from gen_ray.families.score_sde.model import ScoreSde

FAMILY = ScoreSde

__all__ = ["FAMILY", "ScoreSde", "ScoreSdeConfig"]
