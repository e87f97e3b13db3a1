"""The address of an MLflow store. This module does not import MLflow, which takes over a second."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gen_ray.errors import UserError, argument
from gen_ray.storage.paths import is_remote
from gen_ray.tracking import database

if TYPE_CHECKING:
    from gen_ray.experiment import Experiment

SCHEMES = {"http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"}
DATABASE = "mlflow.db"
ENVIRONMENT = "MLFLOW_TRACKING_URI"


def checked(uri: str, key: str) -> str:
    """Return a tracking URI unchanged. Raise UserError, with its key, if it does not name a server or a database.

    MLflow reads an address without a scheme as a folder, and no longer records runs in folders.
    """
    scheme, separator, _ = uri.partition("://")
    if scheme.partition("+")[0] in SCHEMES and (separator or scheme == "databricks"):
        return uri
    if re.fullmatch(r"[\w.-]+(:\d+(/.*)?|/.*)?", uri) and (":" in uri or uri == "localhost"):
        raise UserError(f"{key}={uri}: lacks its scheme; did you mean http://{uri}")
    if separator and scheme != "file":
        raise UserError(
            f"{key}={uri}: must be a server's address, http(s)://…, or a database such as sqlite:////path/mlflow.db"
        )
    raise UserError(
        f"{key}={uri}: is a folder, where MLflow no longer records runs; use sqlite:///{_folder(uri)}/mlflow.db "
        f"('mlflow migrate-filestore' moves older runs there), or the http://… of a server"
    )


def _folder(uri: str) -> Path:
    return Path(uri.removeprefix("file://").removeprefix("file:")).absolute()


@dataclass(frozen=True)
class Store:
    """An MLflow tracking URI and an experiment in it."""

    uri: str
    experiment: str
    artifact_root: str | None = None

    @classmethod
    def of(cls, uri: str | None, experiment: str, root: Path) -> "Store":
        """Return the store of a configuration: uri, else that of MLflow's environment variable, else SQLite below root.

        Raise UserError if root is on an object store, which cannot hold a SQLite database.
        """
        if uri:
            return cls(checked(uri, "tracking.uri"), experiment)
        if uri := os.environ.get(ENVIRONMENT):
            return cls(checked(uri, ENVIRONMENT), experiment)
        if is_remote(root):
            raise UserError(
                f"tracking.uri: is needed where storage.root is {root}; set it, or {ENVIRONMENT}, to the address of an "
                "MLflow server (gen-ray start mlflow)"
            )
        return cls(database.uri_of(root / DATABASE), experiment, (root / database.ARTIFACTS).as_uri())

    @classmethod
    def of_experiment(cls, experiment: "Experiment") -> "Store":
        """Return the store of an experiment. Raise UserError as of does."""
        return cls.of(experiment.tracking.uri, experiment.tracking.experiment, experiment.storage.root)

    @property
    def exists(self) -> bool:
        """Return whether the store may hold runs: False only for a missing database file."""
        file = database.file_of(self.uri)
        return file is None or file.is_file()

    def check(self) -> None:
        """Raise UserError for a missing database file."""
        if not self.exists:
            raise UserError(
                f"{database.file_of(self.uri)}: does not exist, so no runs are recorded there; "
                f"is {argument('storage')} right?"
            )
