"""Quality against cost: the measured points of a model's samplers, their Pareto front, and the recommended ones.

Points are compared by seconds per sample and by a quality figure; lower is better in both.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gen_ray.engine.inference.sampler_choice import SamplerChoice

NAMES = ("fast", "balanced", "best")
TINY = 1e-9
MAX_FAST_RATIO = 2.0
"""Largest quality figure of the fast choice, as a multiple of the balanced one's."""


@dataclass(frozen=True, kw_only=True)
class CostQuality:
    """A measured sampler setting: seconds per sample, and quality with its standard error."""

    sampler: str
    steps: int
    nfe: int
    seconds_per_sample: float
    quality: float
    error: float = 0.0

    @property
    def choice(self) -> SamplerChoice:
        """Return the sampler and its steps."""
        return SamplerChoice(self.sampler, self.steps)


P = TypeVar("P")


def pareto_front(points: Iterable[P], figures: Callable[[P], tuple[float, float]]) -> list[P]:
    """Return the points that are not dominated in their two figures (cost, loss), the cheapest first."""
    front: list[P] = []
    for point in sorted(points, key=figures):
        if not front or figures(point)[1] < figures(front[-1])[1]:
            front.append(point)
    return front


def choose(points: Sequence[CostQuality]) -> Mapping[str, CostQuality]:
    """Return the ``fast``, ``balanced`` and ``best`` of the points, in order of cost; at least one point is needed.

    best: the cheapest point on the front that equals the lowest value within the errors of the two. balanced: the knee
    of the front up to there, which is the point farthest below the straight line between its ends, with the logarithms
    of both figures scaled to 0 … 1 (Kneedle, Satopaa et al. 2011), so that a factor of two counts the same everywhere.
    Where no point is below that line, it is the best one. fast: the cheapest point whose quality is at most
    MAX_FAST_RATIO times the balanced one's.
    """
    front = pareto_front(points, lambda point: (point.seconds_per_sample, point.quality))
    lowest = front[-1]
    last = next(i for i, p in enumerate(front) if p.quality <= lowest.quality + max(p.error, lowest.error))
    front = front[: last + 1]
    balanced = _knee(front)
    fast = next(p for p in front if p.quality <= MAX_FAST_RATIO * balanced.quality + p.error)
    return dict(zip(NAMES, (fast, balanced, front[-1]), strict=True))


def _knee(front: Sequence[CostQuality]) -> CostQuality:
    if len(front) < 3:
        return front[-1]
    (x_0, y_0), (x_1, y_1) = _logarithms(front[0]), _logarithms(front[-1])

    def distance_below_chord(point: CostQuality) -> float:
        x, y = _logarithms(point)
        return (x_1 - x) / (x_1 - x_0) - (y - y_1) / max(y_0 - y_1, TINY)

    knee = max(front[1:-1], key=distance_below_chord)
    return knee if distance_below_chord(knee) > 0 else front[-1]


def _logarithms(point: CostQuality) -> tuple[float, float]:
    return math.log(point.seconds_per_sample), math.log(max(point.quality, TINY))
