"""Versions of registered models for serving: their measurements, and their artifacts on this machine."""

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from gen_ray.configuration.field_types import NAME_PATTERN
from gen_ray.errors import RunError, UserError
from gen_ray.run_directory import checked_id
from gen_ray.storage import manifest, paths
from gen_ray.storage.replacement import replace_folder
from gen_ray.tracking import signing
from gen_ray.tracking.release import MANIFEST, MLFLOW_ID, Release
from gen_ray.tracking.runs import RUN_ID, connect, reader, translate_errors
from gen_ray.tracking.store import Store
from gen_ray.tracking.versions import CHAMPION

PART = ".part-"
KEPT, KEPT_SECONDS = 3, 3600.0
"""A machine keeps the last KEPT used artifacts of a model and those used in the last KEPT_SECONDS."""
MODEL = re.compile(
    r"models:/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63})(?:@(?P<alias>[A-Za-z0-9._-]+)|/(?P<version>\d+))"
)


def parts(model: str) -> re.Match[str]:
    """Return the name, and the alias or version, of a registered model. Raise UserError."""
    match = MODEL.fullmatch(model)
    if match is None:
        raise UserError(f"{model}: a registered model is models:/NAME@champion or models:/NAME/VERSION")
    return match


def release(store: Store, model: str) -> Release:
    """Return the version that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` names now. Raise UserError, RunError.

    This takes one request to the registry, so that it can be polled every few seconds.
    """
    named = parts(model)
    with translate_errors(store):
        client, name = reader(store), named["name"]
        try:
            found = (
                client.get_model_version_by_alias(name, named["alias"])
                if named["alias"]
                else client.get_model_version(name, named["version"])
            )
        except Exception as error:
            if "not found" not in str(error).lower():
                raise
            raise UserError(f"{model}: there is no such model, alias or version in {store.uri}") from None
    version, mlflow_id = str(found.version), str(found.run_id)
    signing.check(name, version, mlflow_id, found.tags)
    read = Release.read(version, mlflow_id, found.tags)
    if signing.key() and read.manifest is None:
        raise RunError(
            f"version {version} of {name}: lacks the tag {MANIFEST} by which its artifact is checked; promote it again"
        )
    return read


def champions(store: Store) -> list[str]:
    """Return the sorted names of the registered models that have a champion. Raise RunError."""
    if not store.exists:
        return []
    with translate_errors(store):
        names = [model.name for model in reader(store).search_registered_models() if CHAMPION in model.aliases]
        return sorted(name for name in names if re.fullmatch(NAME_PATTERN, name))


def run_id(store: Store, mlflow_id: str) -> str:
    """Return this project's id of a run of MLflow. Raise UserError for a run that this project has not recorded."""
    with translate_errors(store):
        try:
            tags = connect(store).get_run(mlflow_id).data.tags
        except Exception as error:
            if "not found" not in str(error).lower():
                raise
            raise UserError(f"{mlflow_id}: no such run in {store.uri}") from None
    try:
        return checked_id(tags.get(RUN_ID, ""))
    except ValueError:
        raise UserError(f"{mlflow_id}: is not a run of gen_ray, its tag {RUN_ID} is {tags.get(RUN_ID)!r}") from None


def fetch(store: Store, release: Release, into: Path) -> Path:
    """Return a version's artifact folder below into. It is downloaded unless an undamaged copy exists. Raise RunError.

    Only older artifacts are removed from into.
    """
    home = into / release.mlflow_id / release.path
    into.mkdir(parents=True, exist_ok=True)
    if not home.resolve().is_relative_to(into.resolve()):
        raise RunError(f"{home}: is a link that leads out of {into}; remove the link")
    if not _is_sound(home, release):
        _download(store, release, into, home)
    os.utime(home.parent)
    _tidy(into, home.parent)
    return home


def _is_sound(home: Path, release: Release) -> bool:
    """Return whether a folder is the undamaged artifact of a version."""
    try:
        manifest.verify(home)
        return release.manifest in (None, manifest.digest(home / manifest.NAME))
    except (manifest.DamagedError, OSError):
        return False


def _download(store: Store, release: Release, into: Path, home: Path) -> None:
    part = Path(mkdtemp(prefix=PART, dir=into))
    try:
        with translate_errors(store):
            reader(store).download_artifacts(release.mlflow_id, release.path, str(part))
        loaded = part / release.path
        if not loaded.is_dir():
            raise RunError(
                f"version {release.version}: run {release.mlflow_id} lacks the artifact {release.path} in MLflow; "
                "gen-ray promote uploads the artifact of a run"
            )
        if release.manifest and not _is_sound(loaded, release):
            raise RunError(
                f"version {release.version}: the artifact {release.path} of run {release.mlflow_id} is not the one "
                "that was promoted; restore it in MLflow, or delete it there and promote the run again"
            )
        home.parent.mkdir(exist_ok=True)
        replace_folder(loaded, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _tidy(into: Path, used: Path) -> None:
    """Remove the least recently used artifacts of a model, and downloads of killed processes."""
    now, ages = time.time(), dict[Path, float]()
    for folder in into.iterdir():
        if folder != used and (MLFLOW_ID.fullmatch(folder.name) or folder.name.startswith(PART)):
            with suppress(FileNotFoundError):  # another replica removed it
                ages[folder] = now - folder.stat().st_mtime
    artifacts = sorted((f for f in ages if MLFLOW_ID.fullmatch(f.name)), key=ages.__getitem__)
    for folder in ages.keys() - set(artifacts[: KEPT - 1]):
        if ages[folder] > KEPT_SECONDS:
            paths.remove(folder)


def remove_old_cache(cache: Path) -> None:
    """Remove artifacts that earlier versions kept directly in the cache by run id, if unused for KEPT_SECONDS.

    The present layout has a folder for each model, whose name may look like an id. Only older entries hold manifests.
    """
    for folder in cache.iterdir():
        is_older = MLFLOW_ID.fullmatch(folder.name) and not folder.is_symlink() and _holds_manifests(folder)
        if is_older or folder.name.startswith(PART):
            with suppress(FileNotFoundError):  # another replica removed it
                if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                    paths.remove(folder)


def _holds_manifests(folder: Path) -> bool:
    return any((subfolder / manifest.NAME).is_file() for subfolder in (folder, *folder.glob("model*")))


def store_artifact(store: Store, mlflow_id: str, folder: Path) -> tuple[str, str]:
    """Upload an artifact folder to an MLflow run unless the run has it. Return its path there and its manifest digest.

    ``model`` holds the artifact of the end of training. gen-ray ema may have changed the weights of the run since then.
    Raise RunError.
    """
    with translate_errors(store), TemporaryDirectory() as part, paths.local_copy(folder) as local:
        mine = manifest.digest(local / manifest.NAME)
        client = connect(store)
        for path in ("model", f"model-{mine[:12]}"):
            if f"{path}/{manifest.NAME}" in {file.path for file in client.list_artifacts(mlflow_id, path)}:
                stored_manifest = client.download_artifacts(mlflow_id, f"{path}/{manifest.NAME}", part)
                if manifest.digest(Path(stored_manifest)) == mine:
                    return path, mine
        client.log_artifacts(mlflow_id, str(local), path)
        return path, mine
