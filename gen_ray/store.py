"""Where runs are recorded. Apart from tracking, since to import MLflow takes over a second."""

import os
from dataclasses import dataclass
from pathlib import Path

from gen_ray.errors import UserError
from gen_ray.storage import is_remote

ENVIRONMENT = "MLFLOW_TRACKING_URI"


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
        uri = uri or os.environ.get(ENVIRONMENT)
        if uri:
            return cls(uri, experiment)
        if is_remote(root):
            raise UserError(
                f"tracking.uri: is needed where storage.root is {root}; an MLflow server's (gen-ray start mlflow), "
                f"there or in {ENVIRONMENT}"
            )
        root.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{root}/mlflow.db", experiment, (root / "mlflow_artifacts").as_uri())
