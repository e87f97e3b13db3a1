"""Quality of a model over its training, from the weight snapshots that the run kept."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gen_ray import run_directory
from gen_ray.cluster.data.preparation import training_data
from gen_ray.cluster.evaluation.evaluate import evaluate_average
from gen_ray.engine.training import post_hoc_ema
from gen_ray.errors import UserError
from gen_ray.metrics import HEADLINE, TRAINING_MINUTES
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store


@dataclass(frozen=True)
class ProgressPoint:
    """Minutes of training, and the metrics at that time."""

    minutes: float
    metrics: Mapping[str, float]


def measured(home: Path, sigma_rel: float, times: int) -> Iterator[ProgressPoint]:
    """Yield a run's quality at ``times`` of its snapshot steps, evenly spaced, the last one included.

    Raise UserError if the run kept no snapshots, or if MLflow does not have its training time.
    """
    experiment = run_directory.at(run_directory.load(home), home.parent.parent)
    steps = post_hoc_ema.snapshot_steps(home)
    run = next((row for row in rows(Store.of_experiment(experiment)) if row.run_id == home.name), None)
    if run is None or TRAINING_MINUTES.name not in run.metrics:
        raise UserError(f"{home.name}: {TRAINING_MINUTES.name} is missing in MLflow")
    prepared = training_data(experiment, home / run_directory.ARTIFACT)
    for part in range(1, min(times, len(steps)) + 1):
        step = steps[len(steps) * part // min(times, len(steps)) - 1]
        report = evaluate_average(experiment, prepared, home, sigma_rel, at=step)
        quality = {m.label: report["metrics"][m.name] for m in HEADLINE if m.name in report["metrics"]}
        yield ProgressPoint(run.metrics[TRAINING_MINUTES.name] * step / steps[-1], quality)
