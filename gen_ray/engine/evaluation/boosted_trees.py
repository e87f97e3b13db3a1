"""Gradient-boosted trees on rows of a table: whether they tell real from synthetic rows, and how well they predict.

Matrices are those of ``table_values``: (N, D) float64, NaN where missing; ordered is (D,) bool.
"""

import math
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from gen_ray.engine.evaluation.requirements import FOLDS

MAX_CATEGORIES = 255
"""Number of categories that scikit-learn's trees can use; rarer ones are taken together."""


def detection_auc(real: np.ndarray, synthetic: np.ndarray, ordered: np.ndarray, *, seed: int) -> tuple[float, float]:
    """Return the AUC of a classifier of real against synthetic rows, and its standard error.

    The classifier two-sample test (Lopez-Paz & Oquab 2017): 0.5 if both have one distribution. It is the mean over the
    folds of a cross-validation, with equally many rows of both. Raise ValueError for fewer rows than folds.
    """
    size = min(len(real), len(synthetic))
    if size < FOLDS:
        raise ValueError(f"a cross-validation needs {FOLDS} rows of each kind")
    x, y = np.concatenate([real[:size], synthetic[:size]]), np.repeat([0, 1], size)
    x = fewer_categories(x, ordered)
    found = []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
        usable = with_values(x, train)
        classifier = HistGradientBoostingClassifier(**_settings(ordered, seed)).fit(usable[train], y[train])
        found.append(roc_auc_score(y[test], classifier.predict_proba(usable[test])[:, 1]))
    auc = sum(found) / FOLDS
    return auc, auc_standard_error(auc, size, size)


def auc_standard_error(auc: float, n: int, m: int) -> float:
    """Return the standard error of the AUC of n rows of one class and m of the other (Hanley & McNeil 1982, eq. 2)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    return math.sqrt((auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (m - 1) * (q2 - auc**2)) / (n * m))


def prediction_score(train: np.ndarray, test: np.ndarray, ordered: np.ndarray, target: int, *, seed: int) -> float:
    """Return how well trees that learn column ``target`` from train (N, D) predict it in test (M, D), higher is better.

    The score is R² for an ordered column, the AUC for two classes in test, else the accuracy. Rows without the target
    are left out. NaN if test has less than two different values.
    """
    train, test = (rows[~np.isnan(rows[:, target])] for rows in (train, test))
    others = np.delete(np.arange(train.shape[1]), target)
    x = fewer_categories(np.concatenate([train, test])[:, others], ordered[others])
    x = with_values(x, np.arange(len(train)))
    settings, y, truth = _settings(ordered[others], seed), train[:, target], test[:, target]
    classes = np.unique(truth)
    if len(classes) < 2:
        return math.nan
    if ordered[target]:
        predicted = HistGradientBoostingRegressor(**settings).fit(x[: len(y)], y).predict(x[len(y) :])
        return float(r2_score(truth, predicted))
    if len(np.unique(y)) < 2:  # nothing to learn from
        return 0.5 if len(classes) == 2 else float((truth == y[:1]).mean())
    classifier = HistGradientBoostingClassifier(**settings).fit(x[: len(y)], y)
    if len(classes) > 2:
        return float(accuracy_score(truth, classifier.predict(x[len(y) :])))
    of_second = np.flatnonzero(classifier.classes_ == classes[1])
    p = classifier.predict_proba(x[len(y) :])[:, of_second].sum(1)
    return float(roc_auc_score(truth == classes[1], p))


def with_values(x: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Return rows (N, D) with 0 in columns that lack values in the rows ``learned``: trees cannot be fitted to them."""
    return np.where(np.isnan(x[learned]).all(0), 0.0, x)


def fewer_categories(x: np.ndarray, ordered: np.ndarray, most: int = MAX_CATEGORIES) -> np.ndarray:
    """Return rows (N, D) with at most ``most`` codes in unordered columns: the most frequent, and one for the others.

    Codes are numbered by frequency.
    """
    found = x.copy()
    for d in np.flatnonzero(~ordered):
        present = ~np.isnan(x[:, d])
        values, places, counts = np.unique(x[present, d], return_inverse=True, return_counts=True)
        ranks = np.empty(len(values), np.int64)
        ranks[np.argsort(-counts, kind="stable")] = np.arange(len(values))
        found[present, d] = np.minimum(ranks, most - 1)[places]
    return found


def _settings(ordered: np.ndarray, seed: int) -> dict[str, Any]:
    return {"categorical_features": ~ordered, "random_state": seed, "early_stopping": False}
