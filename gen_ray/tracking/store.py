"""Where runs are recorded. Apart from tracking, since to import MLflow takes over a second."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gen_ray.errors import UserError
from gen_ray.storage.paths import is_remote
from gen_ray.tracking import database

SCHEMES = {"http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"}
DATABASE = "mlflow.db"
ENVIRONMENT = "MLFLOW_TRACKING_URI"


def checked(uri: str, key: str) -> str:
    """Return a tracking URI. Raise UserError, which names its key, for one by which MLflow finds no server or database.

    MLflow takes an address without a scheme for a folder, and no longer records runs in folders.
    """
    scheme, separator, _ = uri.partition("://")
    if scheme.partition("+")[0] in SCHEMES and (separator or scheme == "databricks"):
        return uri
    if re.fullmatch(r"[\w.-]+(:\d+(/.*)?|/.*)?", uri) and (":" in uri or uri == "localhost"):
        raise UserError(f"{key}={uri}: lacks its scheme; did you mean http://{uri}")
    if separator and scheme != "file":
        raise UserError(
            f"{key}={uri}: MLflow has servers at http(s)://…, and databases such as sqlite:////path/mlflow.db"
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
        """Return the store of a configuration: what MLflow's own variable names, or SQLite below root, unless told.

        Raise UserError where root is on an object store, on which there is no SQLite.
        """
        if uri:
            return cls(checked(uri, "tracking.uri"), experiment)
        if uri := os.environ.get(ENVIRONMENT):
            return cls(checked(uri, ENVIRONMENT), experiment)
        if is_remote(root):
            raise UserError(
                f"tracking.uri: is needed where storage.root is {root}; an MLflow server's (gen-ray start mlflow), "
                f"there or in {ENVIRONMENT}"
            )
        return cls(database.uri_of(root / DATABASE), experiment, (root / database.ARTIFACTS).as_uri())

    @property
    def exists(self) -> bool:
        """Return whether there may be runs in the store: False only for a database file that is missing."""
        file = database.file_of(self.uri)
        return file is None or file.is_file()

    def check(self) -> None:
        """Raise UserError for a database file that is missing."""
        if not self.exists:
            raise UserError(
                f"{database.file_of(self.uri)}: does not exist, so no runs are recorded there; is --storage right?"
            )
