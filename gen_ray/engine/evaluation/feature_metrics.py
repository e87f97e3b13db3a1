"""The metrics of images that compare features of samples with features of the data.

To add one, declare it in ``gen_ray.metrics`` and add its function to MEASURES.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gen_ray.engine.evaluation import frechet
from gen_ray.metrics import (
    FRECHET_AT_FLOOR_ROWS,
    FRECHET_DISTANCE,
    FRECHET_FLOOR,
    FRECHET_FLOOR_ROWS,
    PRECISION,
    RECALL,
)

MANIFOLD_ROWS = 2_000
"""Largest number of rows of a manifold: its cost grows with their square."""


@dataclass(frozen=True, kw_only=True)
class FeatureSets:
    """Features (N, F) of samples, of the reference images and of held-out images."""

    samples: Tensor
    reference: Tensor
    held_out: Tensor
    neighbours: int
    """The k of the k-nearest-neighbour manifolds of precision and recall."""

    @cached_property
    def reference_moments(self) -> frechet.Moments:
        """Return mean and covariance of the reference's features."""
        return frechet.Moments.of(self.reference)


def _frechet_distance(features: FeatureSets) -> float:
    return frechet.distance(frechet.Moments.of(features.samples), features.reference_moments)


def _precision(features: FeatureSets) -> float:
    samples, reference = features.samples[:MANIFOLD_ROWS], features.reference[:MANIFOLD_ROWS]
    return frechet.manifold_coverage(samples, reference, neighbours=features.neighbours)


def _recall(features: FeatureSets) -> float:
    samples, reference = features.samples[:MANIFOLD_ROWS], features.reference[:MANIFOLD_ROWS]
    return frechet.manifold_coverage(reference, samples, neighbours=features.neighbours)


MEASURES: Mapping[str, Callable[[FeatureSets], float]] = {
    FRECHET_DISTANCE.name: _frechet_distance,
    PRECISION.name: _precision,
    RECALL.name: _recall,
}
"""The function of each metric."""


def measured(features: FeatureSets) -> dict[str, float]:
    """Return all metrics of MEASURES, and the floor of the Fréchet distance."""
    return {**{name: measure(features) for name, measure in MEASURES.items()}, **_floor(features)}


def _floor(features: FeatureSets) -> dict[str, float]:
    """Return the distance of held-out features and that of the samples at as many rows; nothing for a single row.

    The distance of n rows is biased upwards by about 1/n, so only distances of equally many rows can be compared. The
    figure of the samples is the mean over all parts of that size.
    """
    size, reference = min(len(features.samples), len(features.held_out)), features.reference_moments
    if size < 2:
        return {}
    parts = [part for part in features.samples.split(size) if len(part) == size]
    distances = [frechet.distance(frechet.Moments.of(part), reference) for part in parts]
    return {
        FRECHET_FLOOR.name: frechet.distance(frechet.Moments.of(features.held_out[:size]), reference),
        FRECHET_FLOOR_ROWS: float(size),
        FRECHET_AT_FLOOR_ROWS.name: sum(distances) / len(distances),
    }
