"""The points of a sweep that are known before anything runs: a grid's, or distinct random ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen_ray.sweeps.config import Point, SearchAxis, SweepPlan

DRAWS = 100
"""Draws for a point that has not been drawn yet, after which the space is taken to be exhausted."""


def predetermined_points(plan: SweepPlan) -> Sequence[Point] | None:
    """Return the points that are known beforehand: a grid's, or distinct random ones; None where results lead on."""
    known = {"grid": _laid, "random": _strewn}.get(plan.sweep.searcher.name)
    return known(plan) if known else None


def _laid(plan: SweepPlan) -> Sequence[Point]:
    return plan.grid()[: plan.sweep.trials]


def _strewn(plan: SweepPlan) -> Sequence[Point]:
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
    """Return a value of an axis at random."""
    if axis.choice is not None:
        return axis.choice[int(rng.integers(len(axis.choice)))]
    low, high = axis.ends
    if axis.randint is not None:
        return int(rng.integers(low, high + 1))
    if axis.loguniform is not None:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))
