"""Versions of registered models as they are served: what was measured of each, and its artifact on this machine."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, Literal

from pydantic import TypeAdapter

from gen_ray import manifest
from gen_ray.engine.curve import Choice, Point
from gen_ray.errors import RunError, UserError
from gen_ray.registry import ARTIFACT, CHAMPION
from gen_ray.storage import here
from gen_ray.store import Store
from gen_ray.tracking import connect, told

CURVE, QUALITY, METRIC, FINGERPRINT, BUILD = (
    f"gen_ray.sampling.{key}" for key in ("curve", "quality", "metric", "fingerprint", "build")
)
MODEL = re.compile(r"models:/(?P<name>[A-Za-z0-9._-]{1,64})(?:@(?P<alias>[A-Za-z0-9._-]+)|/(?P<version>\d+))")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A version of a model and what was measured of it when it was promoted; nothing of a plain artifact."""

    version: str
    mlflow_id: str = ""
    path: str = "model"
    """Of the artifact among those of its MLflow run."""
    quality: Mapping[str, Choice] = field(default_factory=dict)
    """fast, balanced and best; balanced is what a request gets that says nothing."""
    metric: str | None = None
    curve: Sequence[Point] = ()
    fingerprint: str | None = None
    """SHA-256 of fixed samples of the fast choice, see engine/fingerprint, on ``build``."""
    build: str | None = None

    def tags(self) -> dict[str, str]:
        """Return what a version is tagged with."""
        points = [[p.sampler, p.steps, p.nfe, *(float(f"{v:.4g}") for v in _figures(p))] for p in self.curve]
        known = {
            CURVE: json.dumps(points, separators=(",", ":")),
            QUALITY: json.dumps({name: asdict(choice) for name, choice in self.quality.items()}),
            METRIC: self.metric,
            FINGERPRINT: self.fingerprint,
            BUILD: self.build,
            ARTIFACT: self.path,
        }
        return {key: value for key, value in known.items() if value is not None}

    @classmethod
    def read(cls, version: str, mlflow_id: str, tags: Mapping[str, str]) -> "Release":
        """Return what tags say. Raise RunError, which names the tag that cannot be read: anybody may set one."""
        return cls(
            version=version,
            mlflow_id=mlflow_id,
            quality=_parsed(QUALITIES, version, tags, QUALITY, "{}"),
            metric=tags.get(METRIC),
            curve=tuple(
                Point(sampler=s, steps=k, nfe=nfe, seconds_per_sample=seconds, quality=q, error=error)
                for s, k, nfe, seconds, q, error in _parsed(POINTS, version, tags, CURVE, "[]")
            ),
            fingerprint=tags.get(FINGERPRINT),
            build=tags.get(BUILD),
            path=tags.get(ARTIFACT, "model"),
        )


QUALITIES = TypeAdapter(dict[Literal["fast", "balanced", "best"], Choice])
POINTS = TypeAdapter(list[tuple[str, int, int, float, float, float]])


def _parsed(kind: TypeAdapter[Any], version: str, tags: Mapping[str, str], tag: str, default: str) -> Any:
    try:
        return kind.validate_python(json.loads(tags.get(tag, default)))
    except (ValueError, RecursionError):
        raise RunError(f"version {version}: its tag {tag} cannot be read; gen-ray promote writes it") from None


def _figures(point: Point) -> tuple[float, float, float]:
    return point.seconds_per_sample, point.quality, point.error


def release(store: Store, model: str) -> Release:
    """Return the version that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` names now. Raise UserError, RunError.

    One question to the registry: cheap enough to be asked every few seconds.
    """
    parts = MODEL.fullmatch(model)
    if parts is None:
        raise UserError(f"{model}: a registered model is models:/NAME@champion or models:/NAME/VERSION")
    with told(store):
        client, name = connect(store), parts["name"]
        try:
            found = (
                client.get_model_version_by_alias(name, parts["alias"])
                if parts["alias"]
                else client.get_model_version(name, parts["version"])
            )
        except Exception as error:
            if "not found" not in str(error).lower():
                raise
            raise UserError(f"{model}: there is no such model, alias or version in {store.uri}") from None
        return Release.read(str(found.version), str(found.run_id), found.tags)


def champions(store: Store) -> list[str]:
    """Return the names of the registered models that have a champion. Raise RunError."""
    with told(store):
        return sorted(found.name for found in connect(store).search_registered_models() if CHAMPION in found.aliases)


def fetch(store: Store, found: Release, into: Path) -> Path:
    """Return a version's artifact folder below into, downloaded unless it is there undamaged. Raise RunError."""
    home = into / found.mlflow_id / found.path
    if home.is_dir():
        try:
            manifest.verify(home)
            return home
        except manifest.DamagedError:
            shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    part = Path(mkdtemp(prefix=".part-", dir=into))
    try:
        with told(store):
            connect(store).download_artifacts(found.mlflow_id, found.path, str(part))
        if not (part / found.path).is_dir():
            raise RunError(f"version {found.version}: its run {found.mlflow_id} holds no {found.path}")
        try:
            (part / found.path).rename(home)
        except OSError:  # another replica was there first
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return home


def keep(store: Store, mlflow_id: str, folder: Path) -> str:
    """Return the path at which an MLflow run has this artifact folder, put there unless it is. Raise RunError.

    It is at ``model`` as it was when training ended; gen-ray ema may have given the run other weights since.
    """
    with told(store), TemporaryDirectory() as part, here(folder) as found:
        mine = manifest.digest(found / manifest.NAME)
        client = connect(store)
        for path in ("model", f"model-{mine[:12]}"):
            if f"{path}/{manifest.NAME}" in {file.path for file in client.list_artifacts(mlflow_id, path)}:
                there = client.download_artifacts(mlflow_id, f"{path}/{manifest.NAME}", part)
                if manifest.digest(Path(there)) == mine:
                    return path
        client.log_artifacts(mlflow_id, str(found), path)
        return path
