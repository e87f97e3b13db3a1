"""MLflow's client of a store: for writing, and for reading without changes to the store."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import mlflow
from filelock import FileLock

from gen_ray.tracking import database
from gen_ray.tracking.store import Store

RETRIES = "2"  # with MLflow's default of 7, a call takes minutes if the server does not answer


def connect(store: Store) -> mlflow.MlflowClient:
    """Return MLflow's client for reading and writing. A missing database file is created."""
    if file := database.file_of(store.uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    return _client(store)


def reader(store: Store) -> mlflow.MlflowClient:
    """Return MLflow's client for reading. It creates nothing, and can read a database that this process may not write.

    Raise UserError for a database file that does not exist.
    """
    store.check()
    file = database.file_of(store.uri)
    if file is None or database.is_writable(file):
        return _client(store)
    return _client(replace(store, uri=database.uri_of(database.snapshot(file, store.artifact_root))))


def _client(store: Store) -> mlflow.MlflowClient:
    """Return MLflow's client, without the log lines of migrations and the progress bars of downloads."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow logs the traceback of a database error and also raises it; gen_ray.tracking.runs reports it in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with exclusive(store.uri):
        file = database.file_of(store.uri)
        if file and file.is_file():
            database.check(file)
            if store.artifact_root:
                database.relocate(file, store.artifact_root)
        return mlflow.MlflowClient(tracking_uri=store.uri)


def exclusive(uri: str, suffix: str = "") -> AbstractContextManager[object]:
    """Return a lock of a database file, needed because MLflow's migration must not run in two processes at once.

    suffix distinguishes the locks of one file. For a server the context does nothing.
    """
    file = database.file_of(uri)
    return FileLock(f"{file}{suffix}.lock") if file else nullcontext()
