"""Other methods of imputation, on matrices of ``table_values``: (N, D) float64, category codes in unordered columns.

Each takes training rows and rows with missing cells (NaN), learns from both, and returns the latter filled.
"""

import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # makes IterativeImputer importable
from sklearn.impute import IterativeImputer
from sklearn.linear_model import BayesianRidge

from gen_ray.engine.evaluation.boosted_trees import fewer_categories

MAX_ROWS = 20_000
"""Largest number of training rows that the slower methods learn from."""
ITERATIONS, NEAREST = 10, 50
"""Iterations of MICE, and the number of most correlated columns that it uses for each."""
SWEEPS = 3
"""Number of times that the chain of trees goes through all columns."""
TREES = 100
CATEGORIES = 30
"""Largest number of categories; rarer ones are taken together, because each takes a tree or a column."""


def mean_mode(train: np.ndarray, rows: np.ndarray, ordered: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return rows filled with the mean of ordered columns and the most frequent category of the others."""
    found = rows.copy()
    for d in range(rows.shape[1]):
        present = train[~np.isnan(train[:, d]), d]
        if not len(present):
            fill = 0.0
        elif ordered[d]:
            fill = float(present.mean())
        else:
            values, counts = np.unique(present, return_counts=True)
            fill = float(values[counts.argmax()])
        found[np.isnan(rows[:, d]), d] = fill
    return found


def mice(train: np.ndarray, rows: np.ndarray, ordered: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return rows filled by scikit-learn's IterativeImputer with BayesianRidge.

    Each category but the most frequent one is a column of 0 and 1; with all of them, each would only follow the others.
    """
    both = np.concatenate([train[:MAX_ROWS], rows])
    limited = fewer_categories(both, ordered, CATEGORIES)
    means, scales = _moments(both)
    blocks = [
        (both[:, [d]] - means[d]) / scales[d] if ordered[d] else _indicators(limited[:, d])
        for d in range(both.shape[1])
    ]
    starts = np.cumsum([0, *(block.shape[1] for block in blocks)])
    nearest = min(NEAREST, int(starts[-1]))
    imputer = IterativeImputer(
        BayesianRidge(), max_iter=ITERATIONS, random_state=seed, n_nearest_features=nearest, keep_empty_features=True
    )
    with warnings.catch_warnings():  # more iterations change the figures by less than their error
        warnings.simplefilter("ignore", ConvergenceWarning)
        filled = imputer.fit_transform(np.concatenate(blocks, 1))[len(both) - len(rows) :]
    found = rows.copy()
    for d, (first, end) in enumerate(pairwise(starts.tolist())):
        missing = np.isnan(rows[:, d])
        imputed = filled[missing, first:end]
        if np.isnan(both[:, d]).all():
            found[missing, d] = 0.0
        elif ordered[d]:
            found[missing, d] = imputed[:, 0] * scales[d] + means[d]
        else:
            most_frequent = 1 - imputed.sum(1, keepdims=True)
            chosen = np.concatenate([most_frequent, imputed], 1).argmax(1)
            found[missing, d] = _values(both[:, d], limited[:, d])[chosen]
    return found


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and the standard deviations (D,) of columns; 0 without values, and 1 instead of 0."""
    present = [column[~np.isnan(column)] for column in rows.T]
    means = np.array([column.mean() if len(column) else 0.0 for column in present])
    return means, np.array([(float(column.std()) or 1.0) if len(column) else 1.0 for column in present])


def _indicators(codes: np.ndarray) -> np.ndarray:
    """Return a column of 0 and 1 for each of the codes (N,) but the first, (N, K-1); NaN where missing."""
    found = (codes[:, None] == np.unique(codes[~np.isnan(codes)])[1:]).astype(np.float64)
    found[np.isnan(codes)] = np.nan
    return found


def chained_trees(train: np.ndarray, rows: np.ndarray, ordered: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return rows filled column by column with gradient-boosted trees that see all other columns, SWEEPS times."""
    both = np.concatenate([train[:MAX_ROWS], rows])
    missing = np.isnan(both)
    filled = mean_mode(both, both, ordered)
    columns = [d for d in range(both.shape[1]) if missing[len(both) - len(rows) :, d].any() and not missing[:, d].all()]
    for _ in range(SWEEPS):
        for d in columns:
            others = np.delete(np.arange(both.shape[1]), d)
            x = fewer_categories(filled[:, others], ordered[others])
            filled[missing[:, d], d] = _predicted(x, both[:, d], missing[:, d], ordered[others], bool(ordered[d]), seed)
    return filled[len(both) - len(rows) :]


def _predicted(
    x: np.ndarray, y: np.ndarray, missing: np.ndarray, ordered: np.ndarray, is_number: bool, seed: int
) -> np.ndarray:
    settings: dict[str, Any] = {"categorical_features": ~ordered, "random_state": seed, "early_stopping": False}
    if is_number:
        model = HistGradientBoostingRegressor(max_iter=TREES, **settings).fit(x[~missing], y[~missing])
        return np.asarray(model.predict(x[missing]), dtype=np.float64)
    limited = fewer_categories(y[:, None], np.array([False]), CATEGORIES)[:, 0]
    classes = np.unique(limited[~missing])
    if len(classes) == 1:
        return np.full(int(missing.sum()), _values(y, limited)[0])
    trees = max(10, 2 * TREES // len(classes))  # of each class
    classifier = HistGradientBoostingClassifier(max_iter=min(TREES, trees), **settings)
    found = classifier.fit(x[~missing], limited[~missing]).predict(x[missing])
    return _values(y, limited)[found.astype(np.int64)]


def _values(values: np.ndarray, limited: np.ndarray) -> np.ndarray:
    """Return the most frequent of values (N,) for each code of limited (N,), made by ``fewer_categories``."""
    present = ~np.isnan(values)
    found = []
    for code in np.unique(limited[present]):
        kinds, counts = np.unique(values[present & (limited == code)], return_counts=True)
        found.append(kinds[counts.argmax()])
    return np.array(found)


BASELINES: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]] = {
    "mean or mode": mean_mode,
    "MICE": mice,
    "chain of boosted trees": chained_trees,
}
