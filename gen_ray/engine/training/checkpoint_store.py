"""A run's checkpoints: the newest ones and the best ones, each complete or absent.

The folders on disk are the only record, so that a kill at any moment cannot leave a record half written.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gen_ray.engine.inference import model_files
from gen_ray.engine.training import checkpoint
from gen_ray.errors import RunError
from gen_ray.storage import paths

STEP = "step-"


def checkpoints(home: Path) -> "CheckpointStore":
    """Return the checkpoints of a run's folder."""
    return CheckpointStore(home / "checkpoints")


def checkpoint_of(home: Path, which: str) -> Path:
    """Return the folder of a run's ``last`` or ``best`` checkpoint. Raise RunError where there is none."""
    store = checkpoints(home)
    folder = {"last": store.last, "best": store.best}[which]()
    if folder is None:
        raise RunError(f"{home.name}: the training ended without a checkpoint")
    return folder


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints step-… in home: the keep_last newest, and the keep_best of lowest validation loss."""

    home: Path
    keep_last: int = 2
    keep_best: int = 1

    def folder_of(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.home / f"{STEP}{step:09d}"

    def add(self, files: model_files.Files, step: int) -> None:
        """Add a folder of files. Raise RunError."""
        model_files.write(self.folder_of(step), files)

    def save(self, files: model_files.Files, step: int) -> None:
        """Add a checkpoint, then remove those no longer kept. Raise RunError."""
        self.add(files, step)
        for folder in self._surplus():
            paths.remove(folder)  # if that fails, the next save tries again

    def remove_drafts(self) -> None:
        """Remove the drafts of killed writers. Call it only while no process writes."""
        for draft in paths.drafts(self.home, f"{STEP}*"):
            paths.remove(draft)

    def replace_with(self, other: "CheckpointStore") -> None:
        """Replace the content by copies of another store's checkpoints. Call it only while no process writes."""
        paths.remove(self.home)
        for folder in other.folders():
            model_files.commit(self.home / folder.name, partial(paths.copy, folder))

    def folders(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return paths.complete(self.home, f"{STEP}*")

    def last(self) -> Path | None:
        """Return the newest undamaged checkpoint, None for an empty store.

        Raise RunError where all are damaged, because a run must not silently start from scratch.
        """
        return _first_intact(reversed(self.folders()))

    def best(self) -> Path | None:
        """Return the undamaged checkpoint of the lowest validation loss, the newest where none has one.

        Return None or raise RunError where ``last`` does.
        """
        newest_first = self.folders()[::-1]
        return _first_intact(sorted(newest_first, key=_validation))

    def _surplus(self) -> list[Path]:
        losses = {folder: _validation(folder) for folder in self.folders()}
        newest_first = list(reversed(losses))
        best = [folder for folder in sorted(newest_first, key=losses.__getitem__) if losses[folder] < math.inf]
        kept = {*newest_first[: self.keep_last], *best[: self.keep_best]}
        return [folder for folder in losses if folder not in kept]


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(folder.name.removeprefix(STEP))


def _first_intact(folders: Iterable[Path]) -> Path | None:
    """Return the first undamaged folder; damaged ones are logged and skipped."""
    last_error: RunError | None = None
    for folder in folders:
        try:
            checkpoint.verify(folder)
        except RunError as error:
            logging.getLogger(__name__).warning("%s; trying another checkpoint", error)
            last_error = error
        else:
            return folder
    if last_error is not None:
        raise last_error
    return None


def _validation(folder: Path) -> float:
    try:
        return float(checkpoint.position(folder)["validation_nats"])
    except (OSError, ValueError, KeyError):  # damaged: cannot be the best
        return math.inf
