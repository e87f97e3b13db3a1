"""Quality metrics of samples with their provenance.

The Fréchet distance of images, the n-gram gap in bits of texts, the pair-trend error of tables.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import frechet
from gen_ray.engine.evaluation.reference import ReferenceData
from gen_ray.engine.evaluation.table_evaluation import trend_error
from gen_ray.metrics import FRECHET_DISTANCE, NGRAM_GAP, PAIR_TREND_ERROR

BLOCKS = 5
"""Number of parts of the samples for the jackknife error."""
ORDER = 5
"""Length of the n-grams, in characters."""
MAX_TRAIN_EXAMPLES = 20_000
"""Maximum number of training examples that the n-gram model is fitted to."""


@dataclass(frozen=True)
class QualityMetric:
    """A quality metric of samples (N, *shape), lower is better: its name and its provenance."""

    metric: str
    provenance: Mapping[str, Any]
    measure: Callable[[Tensor], tuple[float, float]]

    def __call__(self, samples: Tensor) -> tuple[float, float]:
        """Return the figure of samples (N, *shape) and its standard error."""
        return self.measure(samples)


def quality_metric(spec: DataSpec, reference: ReferenceData) -> QualityMetric | None:
    """Return the quality metric for these data; None where there is none (``unmeasurable_metrics`` has the reason)."""
    if spec.is_table:
        return _of_table(spec, reference)
    if not spec.is_image:
        return _of_tokens(spec, reference)
    return None if reference.extractor is None or len(reference.real) < 2 else _of_images(reference)


def _of_images(reference: ReferenceData) -> QualityMetric:
    extractor = reference.extractor
    assert extractor is not None
    real = frechet.Moments.of(extractor.features(reference.real))

    def distance(samples: Tensor) -> tuple[float, float]:
        features = extractor.features(samples)
        return jackknife(features, lambda part: frechet.distance(frechet.Moments.of(part), real))

    provenance = {
        "extractor": extractor.name,
        "data": reference.fingerprint,
        "reference": reference.reference_split,
        "reference_rows": len(reference.real),
        "rows_seed": reference.rows_seed,
    }
    return QualityMetric(FRECHET_DISTANCE.key, provenance, distance)


def _of_table(spec: DataSpec, reference: ReferenceData) -> QualityMetric | None:
    if len(spec.columns) < 2:
        return None
    real = reference.real

    def error(samples: Tensor) -> tuple[float, float]:
        return jackknife(samples, lambda part: trend_error(part, real, spec))

    provenance = {
        "data": reference.fingerprint,
        "reference": reference.reference_split,
        "reference_rows": len(real),
        "rows_seed": reference.rows_seed,
    }
    return QualityMetric(PAIR_TREND_ERROR.key, provenance, error)


def _of_tokens(spec: DataSpec, reference: ReferenceData) -> QualityMetric:
    model = WittenBell(reference.train[:MAX_TRAIN_EXAMPLES].tolist(), spec.levels, ORDER)
    held_out_bits = float(model.bits(reference.test.flatten(1)).mean())

    def gap(samples: Tensor) -> tuple[float, float]:
        bits = model.bits(samples.flatten(1))
        return abs(float(bits.mean()) - held_out_bits), float(bits.std() / math.sqrt(len(bits)))

    provenance = {
        "judge": f"witten-bell-{ORDER}",
        "data": reference.fingerprint,
        "train_rows": min(len(reference.train), MAX_TRAIN_EXAMPLES),
        "test_rows": len(reference.test),
        "rows_seed": reference.rows_seed,
        "held_out_bits": f"{held_out_bits:.4f}",
    }
    return QualityMetric(NGRAM_GAP.key, provenance, gap)


def jackknife(rows: Tensor, figure: Callable[[Tensor], float]) -> tuple[float, float]:
    """Return a figure of rows (N, …) and its jackknife standard error, leaving out each of BLOCKS parts in turn."""
    parts = rows.tensor_split(BLOCKS)
    without = torch.tensor([figure(torch.cat([p for j, p in enumerate(parts) if j != i])) for i in range(BLOCKS)])
    error = math.sqrt((BLOCKS - 1) / BLOCKS * float((without - without.mean()).square().sum()))
    return figure(rows), error


class WittenBell:
    """An n-gram model smoothed by Witten & Bell 1991, interpolated (Chen & Goodman 1999, section 2.6).

    p(w|h) = (c(h, w) + T(h)·p(w|h′))/(c(h) + T(h)), where T(h) is the number of different symbols seen after h, and h′
    is h without its first symbol; below the empty history the probability is 1/K.
    """

    def __init__(self, examples: Sequence[Sequence[int]], K: int, order: int) -> None:
        """Count all n-grams up to order within the examples of symbols in {0 … K−1}."""
        self.K, self.order = K, order
        self.counts: dict[tuple[int, ...], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for example in examples:
            for i, symbol in enumerate(example):
                for n in range(min(order, i + 1)):
                    self.counts[tuple(example[i - n : i])][symbol] += 1
        self.totals = {history: sum(after.values()) for history, after in self.counts.items()}

    def p(self, history: tuple[int, ...], symbol: int) -> float:
        """Return the probability of a symbol after a history."""
        shorter = self.p(history[1:], symbol) if history else 1 / self.K
        followers = self.counts.get(history)
        if followers is None:
            return shorter
        kinds = len(followers)
        return (followers.get(symbol, 0) + kinds * shorter) / (self.totals[history] + kinds)

    def bits(self, x: Tensor) -> Tensor:
        """Return the bits per symbol of each example of x (N, L): (N,) float64."""
        bits = []
        for row in x.tolist():
            grams = ((tuple(row[max(0, i - self.order + 1) : i]), symbol) for i, symbol in enumerate(row))
            bits.append(-sum(math.log2(self.p(history, symbol)) for history, symbol in grams) / len(row))
        return torch.tensor(bits, dtype=torch.float64)
