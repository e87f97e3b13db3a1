"""The choices of a score-based model's estimates: the weighting of the training loss, and the trace in the density."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gen_ray.maths import ode
from gen_ray.maths.sde import Sde


def _uniform_t(sde: Sde, part: Tensor) -> tuple[Tensor, float]:
    return sde.t_min + (1 - sde.t_min) * part, 1.0


def _uniform_u(sde: Sde, part: Tensor) -> tuple[Tensor, float]:
    low, high = sde.u_range
    return sde.time(low + (high - low) * part), high - low


WEIGHTINGS: Mapping[str, Callable[[Sde, Tensor], tuple[Tensor, float]]] = {"eps": _uniform_t, "likelihood": _uniform_u}
"""Functions from stratified uniforms (B,) in [0, 1) to times (B,) and the weight of ‖eps − eps_hat‖², by name.

``eps`` is lambda = sigma² (Song et al. 2021, section 3.3). ``likelihood`` is lambda = g² (Song et al. 2021b, eq. 9)
with t drawn in proportion to g²/sigma² (ibid., section 4.3), which is a uniform u (maths/sde.py). It gives nats up to a
constant.
"""


@dataclass(frozen=True)
class Trace:
    """An estimator of the Jacobian's trace.

    probes: its probe vectors; combine: from log densities (draws, B) of dequantised data to one (B,); suffix: of the
    likelihood's kind.
    """

    probes: Callable[[Tensor, torch.Generator], Tensor]
    combine: Callable[[Tensor], Tensor]
    suffix: str


TRACES: Mapping[str, Trace] = {
    "hutchinson": Trace(ode.random_signs, lambda log_p: log_p.mean(0), ""),
    "exact": Trace(ode.unit_vectors, lambda log_p: log_p.logsumexp(0) - math.log(len(log_p)), "-iw"),
}
"""The trace estimators by name.

Importance-weighted dequantisation (Hoogeboom et al. 2020) is a bound for exact densities only: the exponential of an
estimated ln p is too large on average, in the model's favour. Therefore estimated log densities are averaged, which
gives the bound of uniform dequantisation (Theis et al. 2016) for any number of draws."""
