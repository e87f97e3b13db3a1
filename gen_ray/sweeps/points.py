"""The points of a sweep that do not depend on results: those of a grid, or distinct random points."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen_ray.sweeps.axes import Point, SearchAxis
from gen_ray.sweeps.config import SweepPlan

DRAWS = 100
"""Number of draws per trial for distinct points. After it the space counts as exhausted."""


def predetermined_points(plan: SweepPlan) -> Sequence[Point] | None:
    """Return the points of a grid, or distinct random points, or None for a searcher that depends on results."""
    known = {"grid": _grid_points, "random": _random_points}.get(plan.sweep.searcher.name)
    return known(plan) if known else None


def _grid_points(plan: SweepPlan) -> Sequence[Point]:
    return plan.grid()[: plan.sweep.trials]


def _random_points(plan: SweepPlan) -> Sequence[Point]:
    sweep = plan.sweep
    rng, found = np.random.default_rng(sweep.searcher.seed), list[Point]()
    for _ in range(DRAWS * (sweep.trials or 0)):
        point: dict[str, Any] = {}
        for key, axis in sweep.space.items():
            if axis.active(point):
                point[key] = sample_axis(axis, rng)
        if point not in found:
            found.append(point)
        if len(found) == sweep.trials:
            break
    return found


def sample_axis(axis: SearchAxis, rng: np.random.Generator) -> Any:
    """Return a random value of an axis."""
    if axis.choice is not None:
        return axis.choice[int(rng.integers(len(axis.choice)))]
    low, high = axis.ends
    if axis.randint is not None:
        return int(rng.integers(low, high + 1))
    if axis.loguniform is not None:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))
