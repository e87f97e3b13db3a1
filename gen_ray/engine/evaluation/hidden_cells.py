"""Cells of a table hidden for the evaluation of imputations: completely at random, at random, or not at random.

The three kinds are those of Rubin 1976. Ranks are those of the codes among a column's values, in [-1, 1].
"""

from collections.abc import Callable, Mapping

import numpy as np

from gen_ray.dataspec import DataSpec
from gen_ray.tabular.columns import MISSING

SLOPE = 3.0
"""Change of the log odds of being hidden over one unit of the rank."""


def completely_at_random(codes: np.ndarray, spec: DataSpec, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return hidden cells (N, D) that are a share of all cells, independent of the values."""
    return rng.random(codes.shape) < share


def at_random(codes: np.ndarray, spec: DataSpec, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return hidden cells (N, D) of a random half of the columns; the odds depend on the values of the other half.

    They are a share of the cells of the columns that are hidden.
    """
    D = codes.shape[1]
    drawn = rng.permutation(D)
    shown, hidden = drawn[: D // 2], drawn[D // 2 :]
    weights = rng.normal(size=(len(shown), len(hidden)))
    found = np.zeros(codes.shape, bool)
    found[:, hidden] = _drawn(ranks(codes, spec, rng)[:, shown] @ weights, share, rng)
    return found


def not_at_random(codes: np.ndarray, spec: DataSpec, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return hidden cells (N, D), a share of all; the odds of a cell depend on its value, in a random direction."""
    directions = rng.choice([-1.0, 1.0], codes.shape[1])
    return _drawn(ranks(codes, spec, rng) * directions, share, rng)


KINDS: Mapping[str, Callable[[np.ndarray, DataSpec, float, np.random.Generator], np.ndarray]] = {
    "completely_at_random": completely_at_random,
    "at_random": at_random,
    "not_at_random": not_at_random,
}


def hidden_cells(codes: np.ndarray, spec: DataSpec, kind: str, *, share: float, seed: int) -> np.ndarray:
    """Return which cells of codes (N, D) are hidden, a function of the seed; never a cell that is missing itself."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    return KINDS[kind](codes, spec, share, rng) & (codes != MISSING)


def ranks(codes: np.ndarray, spec: DataSpec, rng: np.random.Generator) -> np.ndarray:
    """Return ranks (N, D): the positions of ordered columns, categories in a random order; 0 for missing values."""
    table = spec.positions.copy()
    for d, column in enumerate(spec.columns):
        if not column.ordered:
            table[d, : column.cardinality] = np.linspace(-1, 1, column.cardinality)[rng.permutation(column.cardinality)]
    found = table[np.arange(codes.shape[1]), np.maximum(codes, 0)]
    return np.where(codes == MISSING, 0.0, found)


def _drawn(scores: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return draws (N, M) with log odds SLOPE·scores + b, where b gives each column the expected share."""
    scale = np.maximum(scores.std(0), 1e-9)
    low, high = np.full(scores.shape[1], -50.0), np.full(scores.shape[1], 50.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = _sigmoid(SLOPE / 2 * scores / scale + middle).mean(0) > share
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return rng.random(scores.shape) < _sigmoid(SLOPE / 2 * scores / scale + low)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))
