"""Column-shape and pair-trend errors of synthetic rows, as in the quality report of SDMetrics.

Error = 1 - score. Scores of columns: KSComplement (ordered) and TVComplement. Scores of pairs: CorrelationSimilarity
(two ordered columns), else ContingencySimilarity, for which ordered columns are divided into 10 intervals of equal
width between the smallest and the largest real value. SDMetrics counts a missing value as a category in contingencies;
here pairs are compared over the rows that have both values, as all other scores are, because a model of the observed
values does not generate missing ones. Matrices are those of ``table_values``: (N, D) float64, NaN where missing.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

INTERVALS = 10
MAX_PAIRS = 5_000
"""Largest number of pairs that are compared; of more, a seeded choice."""
Pair = tuple[int, int]


def column_errors(real: np.ndarray, synthetic: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return the error of each column (D,) in [0, 1], NaN where a matrix lacks values; ordered is (D,) bool."""
    return np.array([_column_error(real[:, d], synthetic[:, d], bool(ordered[d])) for d in range(real.shape[1])])


def _column_error(real: np.ndarray, synthetic: np.ndarray, is_ordered: bool) -> float:
    a, b = real[~np.isnan(real)], synthetic[~np.isnan(synthetic)]
    if not len(a) or not len(b):
        return float("nan")
    return kolmogorov_smirnov(a, b) if is_ordered else total_variation(a, b)


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of the empirical distribution functions of a (N,) and b (M,)."""
    a, b, points = np.sort(a), np.sort(b), np.concatenate([a, b])
    below = [np.searchsorted(x, points, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Return half the sum of the absolute differences of the frequencies of values of a (N,) and b (M,)."""
    values, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    p, q = (np.bincount(x, minlength=len(values)) / len(x) for x in (places[: len(a)], places[len(a) :]))
    return float(np.abs(p - q).sum() / 2)


def chosen_pairs(D: int, *, seed: int = 0, limit: int = MAX_PAIRS) -> list[Pair]:
    """Return the pairs of D columns, or a seeded choice of ``limit`` of them."""
    if limit >= D * (D - 1) // 2:
        return list(combinations(range(D), 2))
    numbers = np.random.default_rng(seed).choice(D * (D - 1) // 2, limit, replace=False)
    second = (1 + np.sqrt(1 + 8 * numbers.astype(np.float64))).astype(np.int64) // 2  # of the triangle's row
    first = numbers - second * (second - 1) // 2
    return sorted(zip(first.tolist(), second.tolist(), strict=True))


def pair_errors(
    real: np.ndarray, synthetic: np.ndarray, ordered: np.ndarray, pairs: Sequence[Pair] | None = None
) -> np.ndarray:
    """Return the error of each pair (P,) in [0, 1], by default of all; NaN where a correlation is undefined."""
    pairs = chosen_pairs(real.shape[1]) if pairs is None else pairs
    p, q = discretised(real, synthetic, ordered)
    found = [
        abs(correlation(real[:, [i, j]]) - correlation(synthetic[:, [i, j]])) / 2
        if ordered[i] and ordered[j]
        else _contingency_error(p[:, [i, j]], q[:, [i, j]])
        for i, j in pairs
    ]
    return np.array(found, dtype=np.float64)


def discretised(real: np.ndarray, synthetic: np.ndarray, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both matrices with ordered columns divided into INTERVALS of equal width; the outer ones are unbounded."""
    found = real.copy(), synthetic.copy()
    for d in np.flatnonzero(ordered):
        present = real[np.isfinite(real[:, d]), d]
        if len(present):
            edges = np.histogram_bin_edges(present, bins=INTERVALS)[1:-1]
            for matrix in found:
                matrix[:, d] = np.where(np.isnan(matrix[:, d]), np.nan, np.digitize(matrix[:, d], edges))
    return found


def correlation(pair: np.ndarray) -> float:
    """Return Pearson's correlation of the columns of (N, 2) over complete rows, NaN for fewer than two or constants."""
    x = pair[np.isfinite(pair).all(1)]
    if len(x) < 2 or (x == x[0]).all(0).any():
        return float("nan")
    x = x - x.mean(0)
    x = x / np.abs(x).max(0)  # so that squares neither overflow nor vanish
    return float((x[:, 0] @ x[:, 1]) / np.sqrt((x**2).sum(0).prod()))


def _contingency_error(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Return the total variation distance of the joint frequencies of (N, 2) and (M, 2), NaN without complete rows."""
    a, b = (x[~np.isnan(x).any(1)] for x in (real, synthetic))
    if not len(a) or not len(b):
        return float("nan")
    both = np.concatenate([a, b])
    places = [np.unique(column, return_inverse=True)[1] for column in both.T]
    joint = places[0].astype(np.int64) * (int(places[1].max()) + 1) + places[1]
    return total_variation(joint[: len(a)], joint[len(a) :])


def association(matrix: np.ndarray, ordered: np.ndarray) -> float:
    """Return the dependence of the columns of (N, 2): Pearson's correlation of ordered ones, else Cramér's V."""
    if ordered.all():
        return correlation(matrix)
    x = matrix[~np.isnan(matrix).any(1)]
    places = [np.unique(column, return_inverse=True)[1] for column in x.T]
    sizes = [int(place.max()) + 1 if len(place) else 0 for place in places]
    if min(sizes) < 2:
        return float("nan")
    joint = np.bincount(places[0] * sizes[1] + places[1], minlength=sizes[0] * sizes[1]).reshape(sizes) / len(x)
    expected = joint.sum(1, keepdims=True) * joint.sum(0)
    return float(np.sqrt(((joint - expected) ** 2 / expected).sum() / (min(sizes) - 1)))
