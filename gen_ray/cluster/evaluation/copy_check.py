"""Measurement of copies of training data by a trained model, as a Ray task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen_ray.cluster.evaluation.evaluate import device_of, reference_of, run_on_worker
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.evaluation.evaluate import copy_report
from gen_ray.engine.inference import artifact
from gen_ray.experiment import Experiment


def measure_copies(experiment: Experiment, prepared: Prepared, folder: Path) -> dict[str, float]:
    """Return the share of samples nearer to training than to held-out rows, and the gap in bits, of an artifact."""
    found: Mapping[str, float] = run_on_worker(_measured, experiment, prepared.folder, folder)
    return dict(found)


def _measured(cpus: int, data: Path, folder: Path) -> dict[str, Any]:
    device = device_of(cpus)
    model = artifact.load(folder, device=device)
    return copy_report(model, reference_of(Prepared.load(data)), device=device)
