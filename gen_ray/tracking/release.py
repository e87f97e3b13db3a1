"""A version of a registered model for serving: its location, and the measurements made at its promotion.

This module does not import MLflow, which would add a second to the start of each replica.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from gen_ray.engine.evaluation.pareto import CostQuality
from gen_ray.engine.inference.sampler_choice import SamplerChoice
from gen_ray.errors import RunError

ARTIFACT = "gen_ray.artifact"
"""Tag with the path of a version's artifact among those of its run. Default: ``model``."""
CURVE, QUALITY, METRIC, FINGERPRINT, BUILD = (
    f"gen_ray.sampling.{key}" for key in ("curve", "quality", "metric", "fingerprint", "build")
)
MANIFEST = "gen_ray.manifest"
"""Tag with the SHA-256 of the artifact's MANIFEST.sha256, which covers all its files."""
COPIES = "gen_ray.copies"
"""Tag of runs, and of versions promoted with --force: why the model counts as a copy of its training data."""
PATH, MLFLOW_ID = re.compile(r"model(-[0-9a-f]{12})?"), re.compile(r"[0-9a-f]{32}")
"""Patterns of an artifact's path as this project writes it, and of MLflow's ids of runs."""
RUN = re.compile(r"(?:runs:/)?(?P<id>[0-9a-f]{32})(?:/(?P<path>.+))?")
"""Pattern of a MODEL that names a run of MLflow, optionally with the path of one of its artifacts."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A version of a model and the measurements made at its promotion. A plain artifact has no measurements."""

    version: str
    mlflow_id: str = ""
    path: str = "model"
    """Path of the artifact among those of its MLflow run."""
    quality: Mapping[str, SamplerChoice] = field(default_factory=dict)
    """The choices fast, balanced and best. balanced is the default of requests."""
    metric: str | None = None
    curve: Sequence[CostQuality] = ()
    fingerprint: str | None = None
    """SHA-256 of fixed samples of the fast choice, made on ``build``; see engine/inference/fingerprint."""
    build: str | None = None
    manifest: str | None = None
    """SHA-256 of the artifact's manifest."""
    copies: str | None = None
    """Why the model counts as a copy of its training data, in spite of which it was promoted."""

    def tags(self) -> dict[str, str]:
        """Return the tags of the version."""
        points = [[p.sampler, p.steps, p.nfe, *(float(f"{v:.4g}") for v in _figures(p))] for p in self.curve]
        known = {
            CURVE: json.dumps(points, separators=(",", ":")),
            QUALITY: json.dumps({name: asdict(choice) for name, choice in self.quality.items()}),
            METRIC: self.metric,
            FINGERPRINT: self.fingerprint,
            BUILD: self.build,
            ARTIFACT: self.path,
            MANIFEST: self.manifest,
            COPIES: self.copies,
        }
        return {key: value for key, value in known.items() if value is not None}

    @classmethod
    def read(cls, version: str, mlflow_id: str, tags: Mapping[str, str]) -> "Release":
        """Return the release that tags describe. Raise RunError for tags that this project cannot have written.

        Every user of MLflow may set tags.
        """
        path = tags.get(ARTIFACT, "model")
        if not PATH.fullmatch(path):
            raise RunError(
                f"version {version}: its tag {ARTIFACT} is {path[:80]!r}, not model or model-<12 digits>; "
                "promote the run again"
            )
        if not MLFLOW_ID.fullmatch(mlflow_id):
            raise RunError(
                f"version {version}: {mlflow_id[:80]!r} is not the id of an MLflow run; promote the run again"
            )
        return cls(
            version=version,
            mlflow_id=mlflow_id,
            quality=_parsed(QUALITIES, version, tags, QUALITY, "{}"),
            metric=tags.get(METRIC),
            curve=tuple(
                CostQuality(sampler=s, steps=k, nfe=nfe, seconds_per_sample=seconds, quality=q, error=error)
                for s, k, nfe, seconds, q, error in _parsed(POINTS, version, tags, CURVE, "[]")
            ),
            fingerprint=tags.get(FINGERPRINT),
            build=tags.get(BUILD),
            path=path,
            manifest=tags.get(MANIFEST),
            copies=tags.get(COPIES),
        )


QUALITIES = TypeAdapter(dict[Literal["fast", "balanced", "best"], SamplerChoice])
POINTS = TypeAdapter(list[tuple[str, int, int, float, float, float]])


def _parsed(kind: TypeAdapter[Any], version: str, tags: Mapping[str, str], tag: str, default: str) -> Any:
    try:
        return kind.validate_python(json.loads(tags.get(tag, default)))
    except (ValueError, RecursionError):
        raise RunError(f"version {version}: its tag {tag} cannot be read; promote the run again") from None


def _figures(point: CostQuality) -> tuple[float, float, float]:
    return point.seconds_per_sample, point.quality, point.error
