"""The trace of the flow's Jacobian, and what it makes of several draws of a density."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gen_ray.maths import ode


@dataclass(frozen=True)
class Trace:
    """How the Jacobian's trace is had, and how the densities (draws, B) of dequantised data become one (B,)."""

    probes: Callable[[Tensor, torch.Generator], Tensor]
    combine: Callable[[Tensor], Tensor]
    suffix: str


TRACES: Mapping[str, Trace] = {
    "hutchinson": Trace(ode.random_signs, lambda log_p: log_p.mean(0), ""),
    "exact": Trace(ode.unit_vectors, lambda log_p: log_p.logsumexp(0) - math.log(len(log_p)), "-iw"),
}
"""Importance-weighted dequantisation (Hoogeboom et al. 2020) is a bound for exact densities only: the exponential of an
estimated ln p is too large on average, in the model's favour. So estimated ones are averaged, which is the bound of
uniform dequantisation (Theis et al. 2016) whatever the number of draws."""
