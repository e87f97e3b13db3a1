"""The check before a promotion that a model does not copy its training data."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_ray.experiment import Experiment
    from gen_ray.tracking.runs import RunRow
    from gen_ray.tracking.store import Store

REMEDY = "Train with more rows, dropout or training.patience; --force promotes it nevertheless"


def reason(experiment: "Experiment", artifact: Path, store: "Store", run: "RunRow") -> str:
    """Return why a model of images or tables counts as a copy of its training data, "" if it does not.

    Figures that its evaluation lacks are measured and recorded, and so is the reason.
    """
    from gen_ray import run_directory
    from gen_ray.engine.evaluation.copy_gate import copying_reason, has_copy_figures
    from gen_ray.tracking.release import COPIES
    from gen_ray.tracking.runs import log_metrics, set_tags

    about = run_directory.meta(artifact)
    if about["data"]["kind"] not in ("image", "table"):
        return ""
    figures = {**run.metrics, **about["metrics"]}
    if not has_copy_figures(figures):
        measured = _measured(experiment, artifact)
        log_metrics(store, run, measured)
        figures |= measured
    found = copying_reason(figures)
    if found:
        set_tags(store, run.run_id, {COPIES: found})
    return found


def _measured(experiment: "Experiment", artifact: Path) -> dict[str, float]:
    from gen_ray.cluster.data.preparation import training_data
    from gen_ray.cluster.evaluation.copy_check import measure_copies
    from gen_ray.cluster.nodes.connect import connected

    with connected(experiment.scaling):
        return measure_copies(experiment, training_data(experiment, artifact), artifact)
