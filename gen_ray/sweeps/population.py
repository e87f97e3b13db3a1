"""Population based training (Jaderberg et al. 2017) without the cluster: the choice of donors and of new settings.

All draws depend on a seed. Ray Tune's own scheduler uses Python's global random generator.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_ray.sweeps.axes import Point, SearchAxis, label
from gen_ray.sweeps.points import sample_axis

FACTORS = (0.8, 1.2)


def donors(losses: Mapping[int, float], quantile: float, rng: np.random.Generator) -> dict[int, int]:
    """Return a donor of the best quantile for each trial of the worst quantile. Lower is better, NaN is worst."""
    ranked = sorted(losses, key=lambda number: (math.isnan(losses[number]), losses[number], number))
    few = min(math.ceil(quantile * len(ranked)), len(ranked) // 2)
    return {worst: int(rng.choice(ranked[:few])) for worst in reversed(ranked[len(ranked) - few :])}


def explore(space: Mapping[str, SearchAxis], point: Point, resample: float, rng: np.random.Generator) -> Point:
    """Return a point near another, within the ends of all axes. The value of a newly active axis is drawn at random."""
    values: dict[str, Any] = {}
    for key, axis in space.items():
        if axis.active(values):
            fresh = key not in point or rng.random() < resample
            values[key] = sample_axis(axis, rng) if fresh else _stepped(axis, point[key], rng)
    return values


def _stepped(axis: SearchAxis, value: Any, rng: np.random.Generator) -> Any:
    """Return the choice before or after a value, or the value times a factor of FACTORS."""
    if axis.choice is not None:
        position = list(map(label, axis.choice)).index(label(value)) + int(rng.choice((-1, 1)))
        return axis.choice[min(max(position, 0), len(axis.choice) - 1)]
    low, high = axis.ends
    moved = min(max(value * float(rng.choice(FACTORS)), low), high)
    return round(moved) if axis.randint is not None else moved
