"""The check before a sweep that the figures of all its trials may be ranked together."""

from collections.abc import Mapping, Sequence
from typing import Any

from gen_ray.engine.evaluation.provenance import BITS, SAME_FEATURES, comparison_key, planned_provenance
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment

DECIDED_BY = {
    "values": ("family.likelihood", "family.binarise", "family.name"),
    "rows": ("evaluation.likelihood_rows",),
    "samples": ("evaluation.samples",),
    "neighbours": ("evaluation.neighbours",),
}
"""The keys of an experiment that decide each part of a figure's provenance."""

LOSS = "validation/"
"""Prefix of the names of losses. A loss that bounds the likelihood has the provenance of the bits/dim."""


def check_rankable(metric: str, space: Sequence[str], experiments: Sequence[Experiment]) -> None:
    """Raise UserError with the key of the space if a metric has different provenance in experiments."""
    parts = [comparison_key(_planned(metric, experiment)) for experiment in experiments]
    for part in sorted({key for found in parts for key in found}):
        values = sorted({found.get(part, "unknown") for found in parts})
        if len(values) > 1:
            key = next((key for key in DECIDED_BY[part] if key in space), space[0])
            raise UserError(
                f"space.{key}: trials would have {metric} of different provenance ({part}: {', '.join(values)}), and "
                "such figures are not ranked together; run a sweep for each value"
            )


def _planned(metric: str, experiment: Experiment) -> Mapping[str, Any]:
    found = planned_provenance(experiment)
    if metric.startswith(LOSS):
        return {"values": found[BITS]["values"]}
    return found.get(SAME_FEATURES.get(metric, metric), {})
