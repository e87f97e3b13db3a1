"""Scores of imputed cells of a table: RMSE and MAE of ordered columns, accuracy of categories, interval coverage.

Matrices are those of ``table_values``: (N, D) float64, category codes in unordered columns, NaN where missing.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from gen_ray.engine.evaluation import table_values
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows import chains, statistics
from gen_ray.tabular.columns import MISSING

LEVEL = 0.9
"""Probability of a prediction interval."""
FILLS: tuple[statistics.Fill, ...] = ("mean", "median")
"""The values that RMSE and MAE are measured of; both are the most probable value of a category."""


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
) -> Imputed:
    """Return a model's imputations of the hidden cells (M, D) of stored rows with these codes, NaN elsewhere.

    As ``gen-ray impute`` does: from the family's exact marginals if it has them, else from k completions of each row.
    """
    rows = np.flatnonzero(hidden.any(1))
    hidden, visible = hidden[rows], np.where(hidden, MISSING, codes)[rows]
    exact = chains.has_marginals(model, device)
    drawn = None if exact else _completions(model, visible, k, seed, device)
    mean, median, lower, upper = (np.full(codes.shape, np.nan) for _ in range(4))
    for part in chains.batches(len(rows), chains.batch_rows(model.spec)):
        p = chains.marginals(model, visible[part], device)
        for d, column in enumerate(model.spec.columns):
            at = hidden[part, d]
            if p is not None:
                mine = p[:, d, : column.cardinality].cpu().numpy()[at]
                found = [statistics.of_marginals(column, mine, fill, LEVEL) for fill in FILLS]
            else:
                assert drawn is not None
                made, u = (values[part][at, :, d] for values in drawn)
                found = [statistics.of_draws(column, made, u, fill, LEVEL) for fill in FILLS]
            cells = [found[0].values, found[1].values, found[0].low, found[0].high]
            for whole, values in zip((mean, median, lower, upper), cells, strict=True):
                if values is not None:
                    whole[rows[part][at], d] = table_values.numbers(column, values)
    return Imputed(mean=mean, median=median, lower=lower, upper=upper)


def _completions(
    model: Model, codes: np.ndarray, k: int, seed: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return k completions of rows with codes (N, D), and the uniforms that select their values: (N, k, D)."""
    chain = model.family.impute(next(iter(model.family.imputers())))
    return chains.completions(model, chain, np.arange(len(codes) * k).reshape(-1, k), seed, device, codes)
