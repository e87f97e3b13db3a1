"""What MLflow records of a run, under Ray Train and under Ray Tune."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gen_ray import run_directory
from gen_ray.cluster.jobs.waiting import awaited
from gen_ray.cluster.tracking.logger_actor import DRAIN_SECONDS, RunLogger
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.metrics import METRICS, STEPS
from gen_ray.storage import paths
from gen_ray.tracking.comparison import UNMEASURED

INTERRUPTED_SECONDS = 2.0
"""Time that an interrupted command waits for MLflow; if it is too short, the next start closes the run."""
logger = logging.getLogger(__name__)


def wait_until_open(track: RunLogger, home: Path, *, is_new: bool) -> None:
    """Wait until the run is open in MLflow. Raise RunError if it is refused; a new run then leaves no folder."""
    try:
        awaited(track.opened, lambda: f"{track.run_id}: waits for MLflow; a new store takes some seconds")
    except BaseException:
        if is_new:
            paths.remove(home)
        raise


@contextmanager
def recorded(track: RunLogger) -> Iterator[None]:
    """End an open MLflow run after the block as FINISHED, as FAILED with the reason, or as KILLED on an interrupt."""
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except (RunError, UserError) as error:
        status = "FAILED"
        track.set_tags({"reason": getattr(error, "reason", type(error).__name__), "error": str(error)})
        raise
    except Exception as error:
        status = "FAILED"
        track.set_tags({"reason": type(error).__name__, "error": str(error)[:500]})
        raise
    finally:
        _close(track, status)


def _close(track: RunLogger, status: str) -> None:
    """End the run in MLflow. An error of the store must not hide the error that is already propagating."""
    trouble = track.close(status, INTERRUPTED_SECONDS if status == "KILLED" else DRAIN_SECONDS)
    if trouble:
        logger.warning("%s: %s, but not recorded: %s", track.run_id, status, trouble)
        if status == "FINISHED":
            raise RunError(
                f"{track.run_id}: is finished, but MLflow does not have all of its records: {trouble}; records in the "
                "outbox are sent by the next run with the same storage.root, tracking.uri and tracking.experiment",
                reason="tracking",
            )


def params(experiment: Experiment, prepared: Prepared) -> dict[str, Any]:
    """Return the run's MLflow params: every setting, and the identity of the data."""
    return {**experiment.flat(), "data.fingerprint": prepared.fingerprint[:12], "data.bad_rows": prepared.quarantined}


def record(track: RunLogger, report: Mapping[str, Any], home: Path) -> None:
    """Record the evaluation's metrics with their provenance, its pictures and texts, and the artifact."""
    step = report["steps"]
    track.log({**report["metrics"], STEPS.name: step}, step)
    names = [metric.name for metric in METRICS if not metric.provenance_of]
    origins = {name: report["provenance"].get(name, {}) for name in names}
    tags = {f"provenance.{name}.{key}": str(word) for name, how in origins.items() for key, word in how.items()}
    if report["unmeasured"]:
        tags[UNMEASURED] = "; ".join(report["unmeasured"])
    track.set_tags({"sampler": report["sampler"], **tags})
    for name, picture in report["pictures"].items():
        track.log_image(f"evaluation_{name}", picture, step)
    for name, text in report["texts"].items():
        track.log_text(f"evaluation_{name}", text, step)
    track.log_artifact(home / run_directory.ARTIFACT, "model")
    track.log_artifact(home / run_directory.CONFIG, "config")
