"""Scores of imputed cells of a table: RMSE and MAE of ordered columns, accuracy of categories, interval coverage.

Matrices are those of ``table_values``: (N, D) float64, category codes in unordered columns, NaN where missing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.chunks import chunks
from gen_ray.engine.inference.impute import complete
from gen_ray.tabular.columns import MISSING, OrderedColumn

LEVEL = 0.9
"""Probability of a prediction interval."""
COMPLETIONS = 20_000
"""Number of completions in memory."""


@dataclass(frozen=True, kw_only=True)
class Imputed:
    """Imputed values as matrices (N, D): means and medians (or modes), and prediction intervals where known."""

    mean: np.ndarray
    median: np.ndarray
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class ImputationScores:
    """Scores of the hidden cells: errors in standard deviations of the column; NaN where no cell has the figure.

    rmse of the means, mae of the medians, accuracy of the modes, coverage of intervals with probability LEVEL. All are
    means over the cells of all columns.
    """

    rmse: float
    mae: float
    accuracy: float
    coverage: float
    cells: int


def scores(
    imputed: Imputed, truth: np.ndarray, hidden: np.ndarray, ordered: np.ndarray, deviations: np.ndarray
) -> ImputationScores:
    """Return the scores of the hidden cells (N, D bool) against the truth; deviations (D,) of ordered columns."""
    of_numbers, of_categories = hidden & ordered, hidden & ~ordered
    scale = np.broadcast_to(deviations, truth.shape)[of_numbers]
    errors = [(one[of_numbers] - truth[of_numbers]) / scale for one in (imputed.mean, imputed.median)]
    coverage = math.nan
    if imputed.lower is not None and imputed.upper is not None and of_numbers.any():
        inside = (imputed.lower <= truth) & (truth <= imputed.upper)
        coverage = float(inside[of_numbers].mean())
    right = imputed.median[of_categories] == truth[of_categories]
    return ImputationScores(
        rmse=float(np.sqrt((errors[0] ** 2).mean())) if len(scale) else math.nan,
        mae=float(np.abs(errors[1]).mean()) if len(scale) else math.nan,
        accuracy=float(right.mean()) if len(right) else math.nan,
        coverage=coverage,
        cells=int(hidden.sum()),
    )


def standard_deviations(rows: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each ordered column (D,) over its values, 1 for constants and categories."""
    found = np.ones(rows.shape[1])
    for d in np.flatnonzero(ordered):
        present = rows[~np.isnan(rows[:, d]), d]
        found[d] = float(present.std()) or 1.0 if len(present) else 1.0
    return found


def by_model(
    model: Model, codes: np.ndarray, hidden: np.ndarray, k: int, *, seed: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (N,) with hidden cells, and k completions of each as codes (N, k, D).

    codes (M, D) are stored rows; cells that are missing or hidden are completed together.
    """
    rows = np.flatnonzero(hidden.any(1))
    mask = ~hidden[rows] & (codes[rows] != MISSING)
    known = np.where(mask, codes[rows], 0)
    found = np.empty((len(rows), k, codes.shape[1]), codes.dtype)
    for index, (first, end) in enumerate(chunks(len(rows), max(1, COMPLETIONS // k))):
        some = [torch.from_numpy(x[first:end]) for x in (known, mask)]
        made = complete(model, some[0], some[1], k, seed=seed + index, device=device)
        found[first:end] = made.samples.numpy()
    return rows, found


def summary(completions: np.ndarray, spec: DataSpec, u: np.ndarray, vocabulary: "Vocabulary") -> Imputed:
    """Return means, medians or modes, and prediction intervals of completions (N, k, D), codes.

    Means of ordered columns are those of the codes' means; medians and intervals those of drawn values, which u
    (N, k, D) in [0, 1) selects. Modes are the most frequent codes.
    """
    N, k, D = completions.shape
    mean, median, lower, upper = (np.full((N, D), np.nan) for _ in range(4))
    for d, column in enumerate(spec.columns):
        codes = completions[:, :, d]
        if isinstance(column, OrderedColumn):
            drawn = vocabulary.numbers(d, codes.reshape(-1), u[:, :, d].reshape(-1)).reshape(N, k)
            mean[:, d], median[:, d] = column.number_of(codes).mean(1), np.median(drawn, 1)
            lower[:, d], upper[:, d] = prediction_interval(drawn)
        else:
            mean[:, d] = median[:, d] = vocabulary.numbers(d, _modes(codes), np.full(N, 0.5))
    return Imputed(mean=mean, median=median, lower=lower, upper=upper)


def prediction_interval(drawn: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (N,) of intervals that hold a further value with the given probability, from draws (N, k).

    The order statistics at ranks p·(k+1), between which a further draw lies with that probability for any distribution;
    exact for k >= 19 at level 0.9, too narrow for fewer draws.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    lower, upper = np.quantile(drawn, tails, axis=1, method="weibull")
    return lower, upper


def _modes(codes: np.ndarray) -> np.ndarray:
    """Return the most frequent code of each row (N, k), the smallest of equally frequent ones."""
    codes = np.sort(codes, 1)
    counts = (codes[:, :, None] == codes[:, None, :]).sum(2)
    return codes[np.arange(len(codes)), counts.argmax(1)]


class Vocabulary:
    """The numbers of a spec's values: those of ordered columns as they are, categories by their code."""

    def __init__(self, spec: DataSpec) -> None:
        """Take the columns of the spec."""
        self.columns = spec.columns

    def numbers(self, d: int, codes: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return the numbers (n,) float64 of codes (n,) of column d, NaN where missing; u (n,) selects values."""
        column = self.columns[d]
        if not isinstance(column, OrderedColumn):
            return np.where(codes == MISSING, np.nan, codes)
        values: Any = column.as_numbers(column.decode(codes, u)).cast("float64", safe=False)
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)

    def matrix(self, codes: np.ndarray, seed: int) -> np.ndarray:
        """Return the numbers (N, D) of codes (N, D); the seed selects the values of codes."""
        u = np.random.default_rng(seed).random(codes.shape)
        columns: Iterator[np.ndarray] = (self.numbers(d, codes[:, d], u[:, d]) for d in range(codes.shape[1]))
        return np.column_stack(list(columns))
