"""Sources of the versions of a model: a folder, or the registry, whose champion changes.

MLflow is imported only where it is needed, because its import adds a second to a replica's start.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gen_ray import run_directory
from gen_ray.engine.inference import artifact
from gen_ray.errors import UserError
from gen_ray.storage.paths import exists, local_dir
from gen_ray.tracking import signing
from gen_ray.tracking.release import PATH, RUN, Release
from gen_ray.tracking.store import Store


class VersionSource(Protocol):
    """Versions of one model. The methods are called in threads and may raise RunError or UserError."""

    def newest(self) -> Release:
        """Return the version to serve now."""
        ...

    def fetch(self, release: Release) -> Path:
        """Return the local folder of a version's artifact."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """One artifact folder: a run's or a copy. Other weights (gen-ray ema) are another version."""

    folder: Path

    def newest(self) -> Release:
        """Return the version in the folder. Its name is the run's folder name and the SHA-256 of the manifest."""
        name, digest = self.folder.name, artifact.digest(self.folder)
        if name == run_directory.ARTIFACT:
            name = self.folder.parent.name
        return Release(version=f"{name}@{digest[:12]}", manifest=digest)

    def fetch(self, release: Release) -> Path:
        """Return the folder."""
        return self.folder


@dataclass(frozen=True)
class RegistrySource:
    """``models:/NAME@champion``, which follows the alias, or ``models:/NAME/3``, which does not."""

    store: Store
    model: str
    cache: Path
    """Local folder for downloaded artifacts of this model."""

    def newest(self) -> Release:
        """Return the version to which the name refers now."""
        from gen_ray.tracking import releases

        return releases.release(self.store, self.model)

    def fetch(self, release: Release) -> Path:
        """Return the folder of the artifact, which is downloaded once. It is verified when it is loaded."""
        from gen_ray.tracking import releases

        folder = releases.fetch(self.store, release, self.cache)
        releases.remove_old_cache(self.cache.parent)
        return folder


def source_of(model: str, root: Path, tracking_uri: str | None = None) -> VersionSource:
    """Return the source of a MODEL's versions; root is storage.root. Raise UserError if the model does not exist."""
    if not model.startswith(run_directory.REGISTERED):
        return FolderSource(folder_of(model, root, tracking_uri))
    from gen_ray.tracking import releases

    parts = releases.parts(model)
    cache = local_dir(root) / "serving" / "artifacts" / parts["name"]
    return RegistrySource(Store.of(tracking_uri, "gen_ray", root), model, cache)


def folder_of(model: str, root: Path, tracking_uri: str | None = None) -> Path:
    """Return the artifact folder of a MODEL that is not registered. Raise UserError, RunError.

    An MLflow run's id, or runs:/ID, refers to the run's folder below root if it exists, otherwise to its artifact in
    MLflow.
    """
    match = RUN.fullmatch(model)
    if match is None and model.startswith("runs:/"):
        raise UserError(
            f"{model}: MLflow cannot have such a run, whose id would be 32 hexadecimal digits (runs:/ID); "
            "a run's name is given without runs:/"
        )
    if match is None or Path(model).exists():
        return run_directory.find_artifact(model, root)
    if match["path"] and not PATH.fullmatch(match["path"]):
        raise UserError(f"{model}: the artifacts of a run are runs:/ID/model and runs:/ID/model-<12 digits>")
    if signing.key():
        raise UserError(
            f"{model}: a run of MLflow is not signed: promote it, or name its folder ({signing.ENVIRONMENT})"
        )
    from gen_ray.tracking import releases

    store = Store.of(tracking_uri, "gen_ray", root)
    if not match["path"]:
        folder = root / "runs" / releases.run_id(store, match["id"]) / run_directory.ARTIFACT
        if exists(folder):
            return folder
    release = releases.Release(version=model, mlflow_id=match["id"], path=match["path"] or "model")
    return releases.fetch(store, release, local_dir(root) / "serving" / "runs")
