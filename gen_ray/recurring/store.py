"""The store of recurring sweeps below a storage.root: for each a YAML file, and a JSON file with its state."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import AfterValidator, AwareDatetime, Field

from gen_ray.configuration.base import Config, validated
from gen_ray.configuration.field_types import Name
from gen_ray.configuration.yaml12 import dump, quoted, read
from gen_ray.errors import RunError, UserError, nearest
from gen_ray.recurring import cron
from gen_ray.recurring.cron import CronTrigger
from gen_ray.recurring.launcher import OccurrenceState, Word
from gen_ray.storage.paths import is_remote, write_atomic

STATE, LOGS, LOCK = ".state.json", "logs", ".lock"


def _http(address: str) -> str:
    if not address.startswith(("http://", "https://")):
        raise ValueError("must be the dashboard's address, e.g. http://head:8265")
    return address


class RecurringSweep(Config):
    """The configuration of a recurring sweep. ``ScheduleStore.load`` creates it."""

    name: Name
    config: str
    overrides: Sequence[str] = ()
    cron: Annotated[str, AfterValidator(cron.fields)]
    timezone: Annotated[str, AfterValidator(cron.zone)] = "UTC"
    folder: Path = Field(description="working directory of the sweep; a Ray job gets a copy of it")
    address: Annotated[str, AfterValidator(_http)] | None = Field(
        None, description="of a Ray cluster; default: this machine"
    )
    promote: Name | None = None
    margin: float | None = Field(None, ge=0, le=1e9)
    grace_minutes: float = Field(
        60.0, ge=0, le=1_000_000, description="lateness in minutes after which an occurrence is not launched"
    )
    added: AwareDatetime

    @property
    def times(self) -> CronTrigger:
        """Return the times of the sweep."""
        return CronTrigger(self.cron, self.timezone)

    def occurrence(self, at: datetime) -> str:
        """Return the id of an occurrence. It depends only on name and time, so that an occurrence is launched once."""
        return f"{self.name}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"

    def words(self, at: datetime, root: Path) -> list[str]:
        """Return the arguments of python that run the sweep of an occurrence, with its results below root.

        They set storage.root, because the working directory of a job is a copy that is deleted after the job.
        """
        tags = {"gen_ray.schedule": self.name, "gen_ray.occurrence": at.astimezone(self.times.zone).isoformat()}
        words = ["-m", "pipelines.sweep", self.config, *self.overrides, f"storage.root={quoted(str(root))}"]
        words += [word for key, value in tags.items() for word in ("--tag", f"{key}={value}")]
        if self.promote is not None:
            words += ["--promote", self.promote]
        if self.margin is not None:
            words += ["--margin", str(self.margin)]
        return words


class Occurrence(Config):
    """An occurrence of a recurring sweep: the time at which it was due, and its state."""

    at: AwareDatetime
    state: Word
    note: str = ""

    def now(self, state: OccurrenceState | None) -> "Occurrence":
        """Return the occurrence with the state from its launcher."""
        if state is None:
            return Occurrence(at=self.at, state="failed", note="its launcher has no record of it")
        return Occurrence(at=self.at, state=state.word, note=state.note)


class ScheduleState(Config):
    """The state of a recurring sweep. All occurrences up to the time ``after`` are decided.

    The newest launched occurrence is kept, because others are skipped while it runs.
    """

    after: AwareDatetime
    launched: Occurrence | None = None
    passed: Occurrence | None = Field(None, description="newest occurrence that was not launched, and the reason")

    @property
    def running(self) -> bool:
        """Return whether the launched occurrence was running when the state was written."""
        return self.launched is not None and self.launched.state == "running"

    @property
    def last(self) -> Occurrence | None:
        """Return the newest occurrence."""
        return max((found for found in (self.launched, self.passed) if found), key=lambda o: o.at, default=None)


class ScheduleStore:
    """The store of recurring sweeps in the folder ``schedules`` of a storage.root."""

    def __init__(self, root: Path) -> None:
        """Take the storage.root. Raise UserError for a URI, because the files must be locked by a daemon."""
        if is_remote(root):
            raise UserError("schedules must be in a local folder of the daemon's machine", field="storage", value=root)
        self.root, self.folder = root.absolute(), root.absolute() / "schedules"

    def file(self, name: str) -> Path:
        """Return the file of a schedule."""
        return self.folder / f"{name}.yaml"

    def names(self) -> list[str]:
        """Return the sorted names of the schedules."""
        return sorted(file.stem for file in self.folder.glob("*.yaml"))

    def exclusive(self) -> AbstractContextManager[object]:
        """Return the lock that is held while files are read and written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / LOCK)

    def add(self, schedule: RecurringSweep) -> None:
        """Write a new schedule. Raise UserError if one of that name exists."""
        with self.exclusive():
            if self.file(schedule.name).exists():
                raise UserError(
                    f"there is a schedule {schedule.name!r} already; remove it or name this one", field="name"
                )
            text = dump(schedule.model_dump(mode="json", exclude_none=True))
            _write(self.file(schedule.name), text)

    def load(self, name: str) -> RecurringSweep:
        """Return a schedule. Raise UserError if it does not exist or its file is damaged."""
        if name not in self.names():
            raise self._unknown(name)
        raw = read(self.file(name))
        try:
            return validated(RecurringSweep, {**raw, "name": name})
        except UserError as error:
            raise UserError(f"{self.file(name)}: {error}") from None

    def remove(self, name: str) -> None:
        """Remove a schedule and its state. Raise UserError if it does not exist."""
        if name not in self.names():
            raise self._unknown(name)
        with self.exclusive():
            self.file(name).unlink()
            (self.folder / f"{name}{STATE}").unlink(missing_ok=True)

    def load_state(self, schedule: RecurringSweep) -> ScheduleState:
        """Return the state of a schedule. For a new schedule, times before it was added are not due."""
        file = self.folder / f"{schedule.name}{STATE}"
        if not file.exists():
            return ScheduleState(after=schedule.added)
        try:
            return ScheduleState.model_validate_json(file.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{file}: is damaged; remove it, and the schedule starts without a history") from None

    def write(self, name: str, past: ScheduleState) -> None:
        """Write the state of a schedule."""
        _write(self.folder / f"{name}{STATE}", past.model_dump_json(indent=1) + "\n")

    def _unknown(self, name: str) -> UserError:
        return UserError(f"no schedule {name!r} in {self.folder}; {nearest(name, self.names())}")


def _write(file: Path, text: str) -> None:
    try:
        write_atomic(file, text)
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror or error}); its content has not changed") from None
