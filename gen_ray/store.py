"""Where runs are recorded. Apart from tracking, since to import MLflow takes over a second."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Store:
    """An MLflow tracking URI and an experiment in it."""

    uri: str
    experiment: str
    artifact_root: str | None = None

    @classmethod
    def of(cls, uri: str | None, experiment: str, root: Path) -> "Store":
        """Return the store of a configuration: SQLite and artifacts below root unless a URI is given."""
        if uri is not None:
            return cls(uri, experiment)
        root.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{root}/mlflow.db", experiment, (root / "mlflow_artifacts").as_uri())
