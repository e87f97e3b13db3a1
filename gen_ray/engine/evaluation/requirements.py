"""Determines before training which metrics a data set does not allow."""

from collections.abc import Mapping

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.provenance import BITS, FLOOR, FRECHET, PRECISION, RECALL


def unmeasurable_metrics(
    spec: DataSpec, rows: Mapping[str, int], against: str = "train", *, judged: bool = True
) -> dict[str, str]:
    """Return the metrics that splits of these sizes do not allow, each with a one-line reason.

    against: the split that samples are compared with. judged: False if the labels cannot train an extractor.
    """
    missing = {}
    if rows["test"] < 2:
        missing[f"{BITS}_standard_error"] = f"{spec.name}: the test split has 1 row: bits/dim without standard error"
    if not spec.is_image:
        return missing
    if reason := _reason(spec, rows[against], against, judged):
        line = f"{spec.name}: {reason}: no Fréchet distance, precision and recall"
        return missing | dict.fromkeys((FRECHET, FLOOR, PRECISION, RECALL), line)
    held_out = "test" if against == "train" else "train"
    if rows[held_out] < 2:
        missing[FLOOR] = f"{spec.name}: the {held_out} split has 1 row: Fréchet distance without floor"
    return missing


def _reason(spec: DataSpec, rows: int, against: str, judged: bool) -> str:
    """Return why the distance of samples cannot be measured, "" if it can."""
    if not spec.classes:
        return "an extractor needs labelled images"
    if len(spec.classes) == 1 or not judged:
        return "labels of a single class teach an extractor nothing"
    return f"the {against} split has 1 row" if rows < 2 else ""
