"""Determines before training which metrics a data set does not allow."""

from collections.abc import Mapping

from gen_ray.dataspec import DataSpec
from gen_ray.metrics import BITS_PER_DIM, METRICS


def unmeasurable_metrics(
    spec: DataSpec, rows: Mapping[str, int], against: str = "train", *, judged: bool = True
) -> dict[str, str]:
    """Return the metrics that splits of these sizes do not allow, each with a one-line reason.

    against: the split that samples are compared with. judged: False if the labels cannot train an extractor.
    """
    missing = {}
    if rows["test"] < 2:
        line = f"{spec.name}: the test split has 1 row: bits/dim without standard error"
        missing[f"{BITS_PER_DIM.name}_standard_error"] = line
    if not spec.is_image:
        return missing
    if reason := _reason(spec, rows[against], against, judged):
        of_features = [metric for metric in METRICS if metric.needs_features]
        *first, last = (metric.label for metric in of_features if not metric.needs_held_out)
        line = f"{spec.name}: {reason}: no {', '.join(first)} and {last}"
        return missing | {metric.name: line for metric in of_features}
    held_out = "test" if against == "train" else "train"
    if rows[held_out] < 2:
        line = f"{spec.name}: the {held_out} split has 1 row: Fréchet distance without floor"
        missing |= {metric.name: line for metric in METRICS if metric.needs_held_out}
    return missing


def _reason(spec: DataSpec, rows: int, against: str, judged: bool) -> str:
    """Return why the distance of samples cannot be measured, "" if it can."""
    if not spec.classes:
        return "an extractor needs labelled images"
    if len(spec.classes) == 1 or not judged:
        return "labels of a single class teach an extractor nothing"
    return f"the {against} split has 1 row" if rows < 2 else ""
