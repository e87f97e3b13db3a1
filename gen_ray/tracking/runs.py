"""Runs in MLflow: found by their tag, never duplicated, and closed with their true status."""

import logging
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run, RunTag, ViewType
from sqlalchemy.exc import SQLAlchemyError

from gen_ray.errors import RunError
from gen_ray.host.process import is_gone, this_process
from gen_ray.storage.paths import local_copy, resolve
from gen_ray.tracking.mlflow_client import connect as connect
from gen_ray.tracking.mlflow_client import exclusive
from gen_ray.tracking.mlflow_client import reader as reader
from gen_ray.tracking.store import Store

logger = logging.getLogger(__name__)
RUN_ID, PROCESS, PARENT = "gen_ray.run_id", "gen_ray.process", "mlflow.parentRunId"
ACTIVE = "RUNNING"
FAILURE = {"reason", "error"}  # tags that say why a run failed
PARAM_CHARACTERS = 6000  # MLflow's own limit
PAGE = 1000
REFUSED = "refused"
REFUSALS = {400, 404}
"""HTTP status codes for which another attempt is useless."""
DATABASE_REMEDIES = {
    "database is locked": " by another process; end that process, or wait for it, and try again",
    "database or disk is full": "; free some room there and try again",
}
"""Remedies for errors of SQLite."""


def experiment_id(store: Store, client: mlflow.MlflowClient) -> str:
    """Return the id of the store's experiment. Create the experiment if it does not exist."""
    with exclusive(store.uri):
        found = existing(store, client)
        if found is not None:
            return str(found.experiment_id)
        location = f"{store.artifact_root}/{store.experiment}" if store.artifact_root else None
        # Without this tag the UI shows the experiment as one of language models and hides the training charts.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(store.experiment, artifact_location=location, tags=kind))
        except mlflow.MlflowException:
            found = existing(store, client)
            if found is None:
                raise
            return str(found.experiment_id)  # another process has just created it


def existing(store: Store, client: mlflow.MlflowClient) -> Experiment | None:
    """Return the store's experiment, or None. Raise RunError for a deleted one, which only the user may restore."""
    found = client.get_experiment_by_name(store.experiment)
    if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
        raise RunError(
            f"MLflow at {store.uri}: experiment {store.experiment!r} was deleted; name another tracking.experiment, or "
            f"restore it: MLFLOW_TRACKING_URI={store.uri} mlflow experiments restore -x {found.experiment_id}",
            reason=REFUSED,
        )
    return found


@contextmanager
def translate_errors(store: Store) -> Iterator[None]:
    """Raise errors of a store as RunError with one line. Its reason is REFUSED if another attempt is useless."""
    try:
        yield
    except (
        mlflow.MlflowException,
        SQLAlchemyError,
        sqlite3.Error,
        OSError,
        UnicodeError,
    ) as error:  # MLflow passes on a database's first error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        line = next((line for line in lines if "Error)" in line), lines[0])  # the database's message, if there is one
        final = _is_final(error)
        if "404 != 200" in line:
            line = f"{line.partition('. Response')[0]}; is this the address of an MLflow server, and its path right?"
        line += next((remedy for fault, remedy in DATABASE_REMEDIES.items() if fault in line), "")
        raise RunError(f"MLflow at {store.uri}: {line}", reason=REFUSED if final else "tracking") from error


def _is_final(error: BaseException | None) -> bool:
    """Return whether another attempt is useless: MLflow refuses the request, or a text cannot be encoded."""
    if isinstance(error, mlflow.MlflowException) and error.get_http_status_code() in REFUSALS:
        return True
    while error and not isinstance(error, UnicodeError):  # MLflow and SQLAlchemy raise their own errors from it
        error = error.__cause__ or error.__context__
    return error is not None


class TrackedRun:
    """An MLflow run that is written. A run id that exists already is reopened."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
    ) -> None:
        """Find the run by its tag or create it, as a child of the run parent if given. Close the runs of dead drivers.

        Raise RunError.
        """
        self.store = store
        with translate_errors(store):
            self.client = connect(store)
            experiment = experiment_id(store, self.client)
            close_orphans(self.client, experiment)
            above = {PARENT: _runs_named(self.client, experiment, parent)[0].info.run_id} if parent else {}
            self._open(experiment, run_id, name=name, params=params, tags={**tags, **above})

    def _open(
        self, experiment: str, run_id: str, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        mine = {**tags, RUN_ID: run_id, PROCESS: this_process()}
        runs = _runs_named(self.client, experiment, run_id)
        if runs:
            self.id = runs[0].info.run_id
            self.client.update_run(self.id, status=ACTIVE)
            for key in runs[0].data.tags.keys() & FAILURE:  # of the attempt that is resumed
                self.client.delete_tag(self.id, key)
        else:
            self.id = self.client.create_run(experiment, run_name=name).info.run_id
        known = runs[0].data.params if runs else {}
        new = [Param(key, str(value)[:PARAM_CHARACTERS]) for key, value in params.items() if key not in known]
        self.client.log_batch(self.id, params=new, tags=[RunTag(key, str(value)) for key, value in mine.items()])

    def log(self, metrics: Mapping[str, float], step: int, at: int | None = None) -> None:
        """Record metrics at a step. at: time in milliseconds since 1970, by default now."""
        self.log_points([(metrics, step, at or int(time.time() * 1000))])

    def log_points(self, points: Iterable[tuple[Mapping[str, float], int, int]]) -> None:
        """Record points, each of metrics, a step and a time in milliseconds since 1970; at most 1,000 values."""
        values = [Metric(key, float(value), at, step) for metrics, step, at in points for key, value in metrics.items()]
        with translate_errors(self.store):
            self.client.log_batch(self.id, metrics=values)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        with translate_errors(self.store):
            self.client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Record a picture, uint8 (H, W, 3), so that the UI can scroll it over the steps."""
        with translate_errors(self.store):
            self.client.log_image(self.id, picture, key=name, step=step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Record a text as the artifact ``texts/NAME/step-STEP.txt``. MLflow itself keeps pictures in ``images``."""
        with translate_errors(self.store):
            self.client.log_text(self.id, text, f"texts/{name}/step-{step:09d}.txt")

    def log_artifact(self, path: Path | str, under: str) -> None:
        """Store a folder or file as an artifact."""
        if not resolve(path).exists():
            raise RunError(f"{path}: cannot be stored in MLflow, it does not exist", reason=REFUSED)
        with translate_errors(self.store), local_copy(resolve(path)) as local:
            store = self.client.log_artifacts if local.is_dir() else self.client.log_artifact
            store(self.id, str(local), under)

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        with translate_errors(self.store):
            self.client.set_terminated(self.id, status)


def close_orphans(client: mlflow.MlflowClient, experiment_id: str) -> None:
    """Close as KILLED the runs with the status RUNNING whose process has ended."""
    for run in client.search_runs([experiment_id], f"attributes.status = '{ACTIVE}'", max_results=PAGE):
        if is_gone(run.data.tags.get(PROCESS, "")):
            try:
                client.set_terminated(run.info.run_id, "KILLED")
            except mlflow.MlflowException as error:  # not the run to open, so only a warning
                logger.warning("%s: is gone and cannot be closed: %s", run.info.run_id, error)


@dataclass(frozen=True)
class RunRow:
    """A recorded run, as tables and promotions read it."""

    run_id: str
    name: str
    status: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    mlflow_id: str = ""


def rows(store: Store) -> list[RunRow]:
    """Return the runs of the store's experiment, newest first. Raise RunError if the store cannot be read."""
    if not store.exists:
        return []
    with translate_errors(store):
        client = reader(store)
        experiment = existing(store, client)
        return [_row(run) for run in _pages(client, experiment.experiment_id)] if experiment else []


def row(store: Store, run_id: str) -> RunRow:
    """Return a run by its id. Raise RunError if it does not exist."""
    with translate_errors(store):
        client = reader(store)
        experiment = existing(store, client)
        runs = _runs_named(client, experiment.experiment_id, run_id) if experiment else []
    if not runs:
        raise RunError(f"MLflow at {store.uri}: experiment {store.experiment!r} has no run {run_id}")
    return _row(runs[0])


def set_tags(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run, which may have ended. Raise RunError."""
    found = row(store, run_id)
    with translate_errors(store):
        connect(store).log_batch(found.mlflow_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_metrics(store: Store, run: RunRow, metrics: Mapping[str, float]) -> None:
    """Record metrics of a run, which may have ended. Raise RunError."""
    at = int(time.time() * 1000)
    with translate_errors(store):
        connect(store).log_batch(run.mlflow_id, metrics=[Metric(key, value, at, 0) for key, value in metrics.items()])


def log_artifacts(store: Store, run: RunRow, files: Mapping[str, bytes], under: str) -> None:
    """Upload files, given by name, as artifacts of a run, which may have ended. Raise RunError."""
    with translate_errors(store), TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        connect(store).log_artifacts(run.mlflow_id, folder, under)


def latest_image(store: Store, run: RunRow, name: str) -> bytes | None:
    """Return the newest picture of a name as PNG, or None."""
    with translate_errors(store):
        client = reader(store)
        images = [item.path for item in client.list_artifacts(run.mlflow_id, "images")]
        ours = re.compile(re.escape(name) + r"[%+]step[%+].*\.png")
        full = sorted(path for path in images if ours.fullmatch(Path(path).name))
        return Path(client.download_artifacts(run.mlflow_id, full[-1])).read_bytes() if full else None


def experiments(store: Store) -> list[str]:
    """Return the names of all experiments of the store. Raise RunError if the store cannot be read."""
    if not store.exists:
        return []
    with translate_errors(store):
        return sorted(experiment.name for experiment in reader(store).search_experiments())


def _runs_named(client: mlflow.MlflowClient, experiment: str, run_id: str) -> list[Run]:
    return list(client.search_runs([experiment], f"tags.`{RUN_ID}` = '{run_id}'", max_results=1))


def _pages(client: mlflow.MlflowClient, experiment_id: str) -> Iterable[Run]:
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=PAGE,
            page_token=token,
            order_by=["attributes.start_time DESC"],
        )
        yield from page
        token = page.token
        if not token:
            return


def _row(run: Run) -> RunRow:
    return RunRow(
        run_id=run.data.tags.get(RUN_ID, run.info.run_id),
        name=run.info.run_name,
        status=run.info.status,
        metrics=run.data.metrics,
        params=run.data.params,
        tags=run.data.tags,
        mlflow_id=run.info.run_id,
    )
