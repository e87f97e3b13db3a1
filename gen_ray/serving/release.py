"""What is to be served: versions of a model, where they come from, and what is promised of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gen_ray.serving.desk import Point


@dataclass(frozen=True)
class Choice:
    """A sampler and its steps."""

    sampler: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """A version of a model and what was measured of it when it was promoted; nothing of a plain artifact."""

    version: str
    quality: Mapping[str, Choice] = field(default_factory=dict)
    """fast, balanced and best; balanced is what a request gets that says nothing."""
    metric: str | None = None
    curve: Sequence[Point] = ()
    fingerprint: str | None = None
    """SHA-256 of fixed samples, see engine/fingerprint, on ``build``."""
    build: str | None = None


class Source(Protocol):
    """Where a served model's versions come from. Called in threads; both may raise RunError or UserError."""

    def newest(self) -> Release:
        """Return the version that is to be served now."""
        ...

    def fetch(self, release: Release) -> Path:
        """Return the folder of a version's artifact on this machine."""
        ...


@dataclass(frozen=True)
class Fixed:
    """One artifact folder for ever: a run's, or one that was copied here."""

    folder: Path

    def newest(self) -> Release:
        """Return the only version, named by its run's folder."""
        return Release(version=self.folder.parent.name if self.folder.name == "artifact" else self.folder.name)

    def fetch(self, release: Release) -> Path:
        """Return the folder."""
        return self.folder
