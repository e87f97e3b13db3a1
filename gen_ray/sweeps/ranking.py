"""The check before a sweep that the figures of all its trials may be ranked together."""

from collections.abc import Sequence

from gen_ray.engine.evaluation.provenance import comparison_key, planned_provenance
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment
from gen_ray.metrics import METRICS, provenance_of

DECIDED_BY = {part: about.keys for metric in METRICS for part, about in metric.provenance.items()}
"""The keys of an experiment that decide each part of a figure's provenance."""


def check_rankable(metric: str, space: Sequence[str], experiments: Sequence[Experiment]) -> None:
    """Raise UserError with the key of the space if a metric has different provenance in experiments."""
    planned = [planned_provenance(experiment).get(provenance_of(metric), {}) for experiment in experiments]
    parts = [comparison_key(how) for how in planned]
    for part in sorted({key for found in parts for key in found}):
        values = sorted({found.get(part, "unknown") for found in parts})
        if len(values) > 1:
            key = next((key for key in DECIDED_BY[part] if key in space), space[0])
            raise UserError(
                f"space.{key}: trials would have {metric} of different provenance ({part}: {', '.join(values)}), and "
                "such figures are not ranked together; run a sweep for each value"
            )
