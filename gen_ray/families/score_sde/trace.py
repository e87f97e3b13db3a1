"""Estimators of the trace of the flow's Jacobian, and how they combine several draws of a density."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gen_ray.maths import ode


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
