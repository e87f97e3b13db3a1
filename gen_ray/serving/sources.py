"""Where a served model's versions come from: a folder for ever, or the registry, whose champion changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gen_ray import releases, runs
from gen_ray.releases import Release
from gen_ray.storage import beside
from gen_ray.store import Store


class Source(Protocol):
    """Versions of one model. Called in threads; both may raise RunError or UserError."""

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


@dataclass(frozen=True)
class Registered:
    """``models:/NAME@champion``, which follows the alias, or ``models:/NAME/3``, which does not."""

    store: Store
    model: str
    cache: Path
    """Where the artifacts of this model are kept on this machine."""

    def newest(self) -> Release:
        """Return the version that the name stands for now."""
        return releases.release(self.store, self.model)

    def fetch(self, release: Release) -> Path:
        """Return the folder, downloaded once; it is verified where it is loaded."""
        return releases.fetch(self.store, release, self.cache)


def source_of(model: str, root: Path, tracking_uri: str | None = None) -> Source:
    """Return where the versions of a MODEL come from, root being the storage's. Raise UserError where there is none."""
    if not model.startswith(runs.REGISTERED):
        return Fixed(runs.find_artifact(model, root))
    parts = releases.parts(model)
    cache = beside(root) / "serving" / "artifacts" / parts["name"]
    return Registered(Store.of(tracking_uri, "gen_ray", root), model, cache)
