"""The choice of the run to resume: the newest one that has trained, with equal settings and data."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gen_ray import run_directory
from gen_ray.datasets.prepared import Prepared
from gen_ray.dataspec import DataSpec
from gen_ray.engine.training import checkpoint_store
from gen_ray.errors import UserError, argument
from gen_ray.experiment import Experiment
from gen_ray.storage import paths

DATA = "data.json"
EPOCHS, DECAY = "training.epochs", "training.decay"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _SavedData:
    """The description of a run's or sweep's data that is compared on resumption."""

    fingerprint: str
    rows: dict[str, int]
    spec: DataSpec | None = None
    """None in files of earlier versions."""
    others: tuple["_SavedData", ...] = ()
    """Further data sets of a sweep."""


_SAVED_DATA = TypeAdapter(_SavedData)


@dataclass(frozen=True)
class Resumed:
    """A folder in which work continues, with lines for the user and tags for MLflow about changed settings or data."""

    home: Path
    lines: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def state(self) -> None:
        """Log the lines as warnings."""
        for line in self.lines:
            logger.warning("%s", line)


def run(experiment: Experiment, prepared: Prepared, *, accept_data: bool = False) -> Resumed:
    """Return the newest run of this name that can continue. Raise UserError if there is none.

    Its settings must be equal to those of the experiment, because a run has one configuration. Only training.epochs may
    be raised, also for a finished run. The data must be the same unless accept_data is True.
    """
    home = experiment.storage.root / "runs"
    runs, faults = _readable(
        [one for one in run_directory.named(experiment.name, home) if (one / run_directory.CONFIG).is_file()]
    )
    unfinished = {one.home: one.settings for one in runs if not one.is_finished or _is_longer(one.settings, experiment)}
    if not unfinished:
        reason = f" that can be read; {faults[-1]}" if faults else _finished(runs, experiment)
        raise UserError(f"no unfinished run named {experiment.name!r} in {home}{reason}", field="resume")
    chosen = newest(
        list(unfinished),
        started=lambda one: bool(checkpoint_store.checkpoints(one).folders()),
        same=lambda one: not _changed(unfinished[one], experiment),
    )
    before = unfinished[chosen]
    changed = _changed(before, experiment)
    if changed:
        raise UserError(f"{changed[0]} {_setting_change(chosen, before, experiment, changed[0])}", field="resume")
    resumed = Resumed(chosen)
    _state_epochs(resumed, before, experiment)
    check_data(resumed, prepared, accept_data=accept_data)
    return resumed


def _finished(runs: "list[_Run]", now: Experiment) -> str:
    """Return the remedy for a name without unfinished runs: the newest finished run and how it continues."""
    if not runs:
        return ""
    home, before = runs[-1].home, runs[-1].settings
    if now.training.epochs > before.training.epochs:
        key = _changed(before, now)[0]
        return f"; the newest one is finished and has other settings: {key} {_setting_change(home, before, now, key)}"
    return f"; {home.name} is finished: {EPOCHS} above {before.training.epochs} trains it for longer"


@dataclass(frozen=True)
class _Run:
    """A run with its settings. It is finished if it has an artifact of its last epoch."""

    home: Path
    settings: Experiment
    is_finished: bool


def _readable(homes: list[Path]) -> tuple[list[_Run], list[str]]:
    """Return the runs that this version can read, and an error line for each other run, which is also logged."""
    runs, faults = list[_Run](), list[str]()
    for home in homes:
        try:
            settings = run_directory.load(home)
            runs.append(_Run(home, settings, is_finished=_trained(home) >= settings.training.epochs))
        except UserError as error:
            faults.append(str(error))
            logger.warning("%s is not resumed: %s", home.name, error)
    return runs, faults


def newest(folders: list[Path], *, started: Callable[[Path], bool], same: Callable[[Path], bool]) -> Path:
    """Return the newest folder with results. Folders of runs that failed at their start are skipped.

    A newer folder without results is preferred only if it has the required settings and the older one does not.
    """
    at = max((index for index, folder in enumerate(folders) if started(folder)), default=None)
    if at is None:
        return folders[-1]
    if not same(folders[at]):
        return next((folder for folder in reversed(folders[at + 1 :]) if same(folder)), folders[at])
    return folders[at]


def _trained(home: Path) -> int:
    """Return the number of epochs after which a run's artifact was made, 0 without an artifact. Raise UserError."""
    artifact = home / run_directory.ARTIFACT
    return run_directory.settings(artifact, home.parent.parent).training.epochs if paths.exists(artifact) else 0


def _is_longer(before: Experiment, now: Experiment) -> bool:
    return now.training.epochs > before.training.epochs and not _changed(before, now)


def _changed(before: Experiment, now: Experiment) -> list[str]:
    """Return the settings that differ but must be equal. storage.root may differ."""
    one, other = run_directory.at(before, now.storage.root).flat(), now.flat()
    changed = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    if now.training.epochs > before.training.epochs:
        changed.discard(EPOCHS)
    return sorted(changed)


def _setting_change(home: Path, settings: Experiment, experiment: Experiment, key: str) -> str:
    before, now = settings.flat().get(key), experiment.flat().get(key)
    remedy = "; it may be raised, not lowered" if key == EPOCHS else ""
    return f"was {before!r} in {home.name}, now it is {now!r}{remedy}"


def _state_epochs(resumed: Resumed, settings: Experiment, experiment: Experiment) -> None:
    """Add a line on the learning rate of a longer training: it depends on the step and on the number of all steps."""
    before, now = settings.training.epochs, experiment.training.epochs
    if now == before:
        return
    decay = experiment.training.decay
    meaning = (
        "the learning rate does not change"
        if decay == "constant"
        else f"from here the learning rate is that of a run of {now} epochs, higher than it was"
    )
    resumed.lines.append(f"{resumed.home.name}: {EPOCHS} {before} → {now}; {DECAY}={decay}: {meaning}")
    resumed.tags[f"final.{EPOCHS}"] = str(now)


def keep_data(home: Path, *prepared: Prepared) -> None:
    """Save the description of a run's data, or of all data sets of a sweep, in its folder."""
    first, *others = map(_described, prepared)
    paths.write_atomic(home / DATA, json.dumps({**first, **({"others": others} if others else {})}, indent=1))


def _described(prepared: Prepared) -> dict[str, Any]:
    spec = prepared.spec.model_dump(mode="json")
    return {"fingerprint": prepared.fingerprint, "source": prepared.source, "rows": prepared.rows, "spec": spec}


def check_data(resumed: Resumed, *prepared: Prepared, accept_data: bool) -> None:
    """Raise UserError if the data differ from those of the folder, unless accept_data is True.

    The data sets of a sweep are given in the order in which they were saved.
    """
    file = resumed.home / DATA
    if not file.exists():  # a folder of an earlier version
        return
    try:
        first = _SAVED_DATA.validate_json(file.read_bytes())
        pairs = list(zip((first, *first.others), prepared, strict=True))
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        line = f"{file}: is damaged ({str(error).splitlines()[0]})"
        if not accept_data:
            raise UserError(
                f"{line}; {argument('accept_data')} continues without comparing the data", field="resume"
            ) from None
        resumed.lines.append(f"{line}; the data are not compared")
        return
    changes = [_checked_change(resumed.home, saved, now, accept_data=accept_data) for saved, now in pairs]
    for change in filter(None, changes):
        resumed.lines.append(f"{resumed.home.name}: goes on with other data: {change}")
        before = resumed.tags.get("data.changed_on_resume")
        resumed.tags["data.changed_on_resume"] = f"{before}; {change}" if before else change


def _checked_change(home: Path, saved: _SavedData, prepared: Prepared, *, accept_data: bool) -> str:
    """Return the change of a data set, or an empty text. Raise UserError if it is not accepted or does not fit."""
    if saved.fingerprint == prepared.fingerprint:
        return ""
    change = f"{_about(saved.fingerprint, saved.rows)}, now {_about(prepared.fingerprint, prepared.rows)}"
    if not accept_data:
        raise UserError(
            f"data.source={prepared.source} is not what {home.name} was trained on: it was {change}; "
            f"restore the data, or continue with the new data by {argument('accept_data')}",
            field="resume",
        )
    if saved.spec and (fault := _other_kind(saved.spec, prepared.spec)):
        raise UserError(f"{fault}, so that the weights of {home.name} do not fit; train a new run", field="accept_data")
    return change


def _other_kind(before: DataSpec, now: DataSpec) -> str:
    """Return the difference between data sets for which the weights do not fit, or an empty text."""
    for key in ("kind", "shape", "levels"):
        was, new = getattr(before, key), getattr(now, key)
        if was != new:
            return f"{key} of the data was {was}, now it is {new}"
    if before.alphabet != now.alphabet:
        return f"the alphabet of the data was {before.alphabet!r}, now it is {now.alphabet!r}"
    return ""


def _about(fingerprint: str, rows: Mapping[str, int]) -> str:
    return f"{fingerprint[:12]} ({sum(rows.values()):,} rows)"
