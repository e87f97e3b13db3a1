"""The metrics of samples of a table: marginals, pairs, detection, prediction from samples, copies; and the picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import table_metrics, table_values
from gen_ray.engine.evaluation.copies import nearest_share
from gen_ray.engine.evaluation.reference import REFERENCE_ROWS, ReferenceData
from gen_ray.engine.evaluation.requirements import FOLDS
from gen_ray.metrics import (
    COLUMN_SHAPE_ERROR,
    DETECTION_AUC,
    DETECTION_FLOOR,
    NEAREST_TRAIN_SHARE,
    PAIR_TREND_ERROR,
    PREDICTION_GAP,
    PREDICTION_OF_REAL,
    PREDICTION_OF_SAMPLES,
    standard_error_of,
)

SEED = 0
Figures = tuple[dict[str, float], dict[str, Mapping[str, Any]]]
"""Metrics and their provenance, by name."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRows:
    """Rows as matrices (N, D) of ``table_values``: samples, the rows they are compared with, and both splits.

    Samples lack the same cells as real rows, because a model of observed values does not generate missing ones.
    """

    spec: DataSpec
    samples: np.ndarray
    real: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @property
    def ordered(self) -> np.ndarray:
        """Return whether each column is ordered, (D,) bool."""
        return table_values.ordered(self.spec.columns)

    @classmethod
    def of(cls, samples: Tensor, reference: ReferenceData, spec: DataSpec, rows: int) -> "EvaluationRows":
        """Decode samples (N, D) and at most ``rows`` rows of each split."""
        codes = (samples, reference.train[:rows], reference.test[:rows])
        tables = [table_values.decoded(x.numpy(), spec, seed=SEED + i) for i, x in enumerate(codes)]
        made, train, test = table_values.matrices(spec.columns, *tables)
        real = {"train": train, "test": test}[reference.reference_split]
        # Row i of the samples gets the pattern of the real row i.
        patterns = np.isnan(real)[np.arange(len(made)) % len(real)]
        return cls(spec=spec, samples=np.where(patterns, np.nan, made), real=real, train=train, test=test)


def table_figures(decoded: EvaluationRows, reference: ReferenceData) -> Figures:
    """Return the metrics of samples that the numbers of rows and columns allow, and their provenance.

    Errors are in percent.
    """
    pairs = table_metrics.chosen_pairs(len(decoded.spec.columns))
    columns = table_metrics.column_errors(decoded.real, decoded.samples, decoded.ordered)
    trends = table_metrics.pair_errors(decoded.real, decoded.samples, decoded.ordered, pairs)
    found = {COLUMN_SHAPE_ERROR.name: 100 * _mean(columns), PAIR_TREND_ERROR.name: 100 * _mean(trends)}
    found |= _detection(decoded) | _prediction(decoded)
    how = {
        "data": reference.fingerprint,
        "reference": reference.reference_split,
        "reference_rows": len(decoded.real),
        "test_rows": len(decoded.test),
        "rows_seed": reference.rows_seed,
        "samples": len(decoded.samples),
        "pairs": len(pairs),
        "values": "decoded",
        "seed": SEED,
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}, {COLUMN_SHAPE_ERROR.name: how}


def trend_error(samples: Tensor, real: Tensor, spec: DataSpec) -> float:
    """Return the mean pair-trend error of samples (N, D) against real rows (M, D), stored data, in percent."""
    tables = [table_values.decoded(x.numpy(), spec, seed=SEED) for x in (real, samples)]
    a, b = table_values.matrices(spec.columns, *tables)
    return 100 * _mean(table_metrics.pair_errors(a, b, table_values.ordered(spec.columns)))


def _mean(errors: np.ndarray) -> float:
    present = errors[~np.isnan(errors)]
    return float(present.mean()) if len(present) else math.nan


def _detection(rows: EvaluationRows) -> dict[str, float]:
    """Return the AUC of test rows against samples, and the floor: that of test rows against training rows."""
    from gen_ray.engine.evaluation.boosted_trees import detection_auc  # scikit-learn, a slow import

    test = rows.test[:REFERENCE_ROWS]
    if min(len(test), len(rows.samples), len(rows.train)) < FOLDS:
        return {}
    auc, error = detection_auc(test, rows.samples, rows.ordered, seed=SEED)
    floor, floor_error = detection_auc(test, rows.train, rows.ordered, seed=SEED)
    return {
        DETECTION_AUC.name: auc,
        standard_error_of(DETECTION_AUC.name): error,
        DETECTION_FLOOR.name: floor,
        standard_error_of(DETECTION_FLOOR.name): floor_error,
    }


def _prediction(rows: EvaluationRows) -> dict[str, float]:
    """Return how well the target of test rows is predicted after learning from samples, and from training rows."""
    from gen_ray.engine.evaluation.boosted_trees import prediction_score  # scikit-learn, a slow import

    if rows.spec.target is None or len(rows.spec.columns) < 2:
        return {}
    target = [column.name for column in rows.spec.columns].index(rows.spec.target)
    train = rows.train[: len(rows.samples)]  # equally many
    learned, real = (
        prediction_score(x, rows.test, rows.ordered, target, seed=SEED) for x in (rows.samples[: len(train)], train)
    )
    return {
        PREDICTION_OF_SAMPLES.name: learned,
        PREDICTION_OF_REAL.name: real,
        PREDICTION_GAP.name: real - learned,
    }


def copy_figures(samples: Tensor, reference: ReferenceData, spec: DataSpec) -> Figures:
    """Return the share of samples (N, *shape) that are nearer to training than to test rows; nothing without rows."""
    if not min(len(reference.train), len(reference.test)):
        return {}, {}
    found = nearest_share(samples, reference.train[:REFERENCE_ROWS], reference.test[:REFERENCE_ROWS], spec)
    how = {
        "data": reference.fingerprint,
        "rows": found.rows,
        "samples": found.samples,
        "rows_seed": reference.rows_seed,
        "seed": SEED,
    }
    name = NEAREST_TRAIN_SHARE.name
    return {name: found.share, standard_error_of(name): found.standard_error}, {name: how}


def picture(decoded: EvaluationRows) -> np.ndarray:
    """Return marginals and dependence of pairs of real rows, samples and their difference, uint8 (H, W, 3).

    Of more than MAX_COLUMNS columns, those with the largest column errors are shown.
    """
    from gen_ray.engine.plots.tables import MAX_COLUMNS, Marginals, comparison  # matplotlib, a slow import

    spec = decoded.spec
    errors = table_metrics.column_errors(decoded.real, decoded.samples, decoded.ordered)
    shown = np.sort(np.argsort(-np.nan_to_num(errors), kind="stable")[:MAX_COLUMNS])
    real, made, ordered = decoded.real[:, shown], decoded.samples[:, shown], decoded.ordered[shown]
    marginals = [
        Marginals(
            title=f"{spec.columns[d].name}  {100 * errors[d]:.2g} %",
            real=decoded.real[:, d],
            synthetic=decoded.samples[:, d],
            is_ordered=bool(decoded.ordered[d]),
        )
        for d in shown
    ]
    names = [spec.columns[d].name for d in shown]
    a, b = table_metrics.discretised(real, made, ordered)
    dependence = [_dependence(x, binned, ordered) for x, binned in ((real, a), (made, b))]
    of = f"{len(shown)} of {len(spec.columns)} columns" if len(shown) < len(spec.columns) else ""
    return comparison(marginals, names, *dependence, note=of)


def _dependence(values: np.ndarray, binned: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return the association of each pair of columns (D, D), 1 on the diagonal."""
    D = len(ordered)
    found = np.eye(D)
    for i, j in table_metrics.chosen_pairs(D):
        x = values if ordered[i] and ordered[j] else binned
        found[i, j] = found[j, i] = table_metrics.association(x[:, [i, j]], ordered[[i, j]])
    return found
