"""The metrics that a data set does not allow, determined before training."""

from collections.abc import Mapping

from gen_ray.dataspec import DataSpec
from gen_ray.metrics import (
    BITS_PER_DIM,
    DETECTION_AUC,
    METRICS,
    PAIR_TREND_ERROR,
    PREDICTION_GAP,
    PREDICTION_OF_SAMPLES,
    declared,
    standard_error_of,
)

FOLDS = 5
"""Parts of the cross-validation of the detection AUC, which needs as many rows."""


def unmeasurable_metrics(
    spec: DataSpec, rows: Mapping[str, int], reference_split: str = "train", *, has_extractor: bool = True
) -> dict[str, str]:
    """Return the metrics that splits of these sizes do not allow, each with a one-line reason.

    reference_split: the split that samples are compared with. has_extractor: False if the labels cannot train one.
    """
    missing = {}
    if rows["test"] < 2:
        line = f"{spec.name}: the test split has 1 row: bits/dim without standard error"
        missing[standard_error_of(BITS_PER_DIM.name)] = line
    if spec.is_table:
        return missing | _of_table(spec, rows)
    if not spec.is_image:
        return missing
    if reason := _reason(spec, rows[reference_split], reference_split, has_extractor):
        of_features = [metric for metric in METRICS if metric.needs_features]
        *first, last = (metric.label for metric in of_features if not metric.needs_held_out)
        line = f"{spec.name}: {reason}: no {', '.join(first)} and {last}"
        return missing | {metric.name: line for metric in of_features}
    held_out = "test" if reference_split == "train" else "train"
    if rows[held_out] < 2:
        line = f"{spec.name}: the {held_out} split has 1 row: Fréchet distance without floor"
        missing |= {metric.name: line for metric in METRICS if metric.needs_held_out}
    return missing


def unsuitable(spec: DataSpec, metric: str) -> str:
    """Return why a metric does not exist for this kind of data, "" if it does."""
    about = declared(metric)
    if about.needs_table and not spec.is_table:
        return f"{spec.name} is not a table"
    if about.needs_features and not spec.is_image:
        return f"{spec.name} does not hold images"
    if metric in (PREDICTION_OF_SAMPLES.name, PREDICTION_GAP.name) and spec.target is None:
        return f"{spec.name} does not have a target; set data.options.target"
    return ""


def _of_table(spec: DataSpec, rows: Mapping[str, int]) -> dict[str, str]:
    missing = {}
    if len(spec.columns) < 2:
        missing[PAIR_TREND_ERROR.name] = f"{spec.name}: a single column: no {PAIR_TREND_ERROR.label}"
    if few := [split for split in ("train", "test") if rows[split] < FOLDS]:
        line = f"{spec.name}: the {few[0]} split has fewer than {FOLDS} rows: no {DETECTION_AUC.label}"
        missing[DETECTION_AUC.name] = line
    return missing


def _reason(spec: DataSpec, rows: int, reference_split: str, has_extractor: bool) -> str:
    """Return why the distance of samples cannot be measured, "" if it can."""
    if not spec.classes:
        return "an extractor needs labelled images"
    if len(spec.classes) == 1 or not has_extractor:
        return "an extractor cannot be trained on labels of a single class"
    return f"the {reference_split} split has 1 row" if rows < 2 else ""
