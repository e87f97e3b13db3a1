"""Quality against cost: the points that were measured of a model's samplers, and which of them to use.

Points are compared by seconds a sample and by quality, of which less is better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAMES = ("fast", "balanced", "best")
TINY = 1e-9
TOLERABLE = 2.0
"""How many times the balanced quality the fast choice may have."""


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler and its steps."""

    sampler: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class CostQuality:
    """A sampler at a number of steps: what a sample costs, and how good samples are with the error of that figure."""

    sampler: str
    steps: int
    nfe: int
    seconds_per_sample: float
    quality: float
    error: float = 0.0

    @property
    def choice(self) -> SamplerChoice:
        """Return which it is."""
        return SamplerChoice(self.sampler, self.steps)


def pareto_front(points: Sequence[CostQuality]) -> list[CostQuality]:
    """Return the points that no other one is both cheaper and better than, the cheapest first."""
    found: list[CostQuality] = []
    for point in sorted(points, key=lambda point: (point.seconds_per_sample, point.quality)):
        if not found or point.quality < found[-1].quality:
            found.append(point)
    return found


def choose(points: Sequence[CostQuality]) -> Mapping[str, CostQuality]:
    """Return ``fast``, ``balanced`` and ``best`` of at least one point, each no dearer than the next.

    best: the cheapest on the front that is as good as the lowest value, within the errors of the two. balanced: the
    knee of the front up to there, the point farthest below the straight line between its ends, the logarithms of both
    figures brought to 0 … 1 (Kneedle, Satopaa et al. 2011): twice as good counts alike wherever it happens. Where none
    is below that line it is the best. fast: the cheapest whose quality is at most twice the balanced one's.
    """
    along = pareto_front(points)
    lowest = along[-1]
    last = next(i for i, p in enumerate(along) if p.quality <= lowest.quality + max(p.error, lowest.error))
    along = along[: last + 1]
    balanced = _knee(along)
    fast = next(p for p in along if p.quality <= TOLERABLE * balanced.quality + p.error)
    return dict(zip(NAMES, (fast, balanced, along[-1]), strict=True))


def _knee(along: Sequence[CostQuality]) -> CostQuality:
    if len(along) < 3:
        return along[-1]
    (x_0, y_0), (x_1, y_1) = _logarithms(along[0]), _logarithms(along[-1])

    def below(point: CostQuality) -> float:
        x, y = _logarithms(point)
        return (x_1 - x) / (x_1 - x_0) - (y - y_1) / max(y_0 - y_1, TINY)

    knee = max(along[1:-1], key=below)
    return knee if below(knee) > 0 else along[-1]


def _logarithms(point: CostQuality) -> tuple[float, float]:
    return math.log(point.seconds_per_sample), math.log(max(point.quality, TINY))
