"""MLflow's client of a store: for writing, and for reading without a trace."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import mlflow
from filelock import FileLock

from gen_ray.tracking import database
from gen_ray.tracking.store import Store

RETRIES = "2"  # MLflow's own 7 keep one waiting for minutes where no server answers


def connect(store: Store) -> mlflow.MlflowClient:
    """Return MLflow's client for reading and writing; a database file is created where it does not exist."""
    if file := database.file_of(store.uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    return _client(store)


def reader(store: Store) -> mlflow.MlflowClient:
    """Return MLflow's client for reading: creates nothing, and reads a database that this process may not write.

    Raise UserError for a database file that does not exist.
    """
    store.check()
    file = database.file_of(store.uri)
    if file is None or database.is_writable(file):
        return _client(store)
    return _client(replace(store, uri=database.uri_of(database.snapshot(file, store.artifact_root))))


def _client(store: Store) -> mlflow.MlflowClient:
    """Return MLflow's client, with the chatter of migrations and downloads held back."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It prints the traceback of a database error that it also raises: gen_ray.tracking.runs reports it in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with alone(store.uri):
        file = database.file_of(store.uri)
        if file and file.is_file():
            database.check(file)
            if store.artifact_root:
                database.relocate(file, store.artifact_root)
        return mlflow.MlflowClient(tracking_uri=store.uri)


def alone(uri: str, what: str = "") -> AbstractContextManager[object]:
    """Return what lets one process at a time do what with a database file: MLflow's migration expects no company."""
    file = database.file_of(uri)
    return FileLock(f"{file}{what}.lock") if file else nullcontext()
