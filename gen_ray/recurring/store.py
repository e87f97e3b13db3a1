"""The schedules of a storage.root, a readable file each, and beside it what happened last."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import AfterValidator, AwareDatetime, Field

from gen_ray.configuration.base import Config, validated
from gen_ray.configuration.yaml12 import dump, quoted, read
from gen_ray.errors import RunError, UserError, nearest
from gen_ray.experiment import Name
from gen_ray.recurring import cron
from gen_ray.recurring.cron import CronTrigger
from gen_ray.recurring.launcher import OccurrenceState, Word
from gen_ray.storage.paths import is_remote, write_whole

STATE, LOGS, LOCK = ".state.json", "logs", ".lock"


def _http(address: str) -> str:
    if not address.startswith(("http://", "https://")):
        raise ValueError("is the dashboard's, e.g. http://head:8265")
    return address


class RecurringSweep(Config):
    """A sweep and when it recurs. Made by ``ScheduleStore.load``."""

    name: Name
    config: str
    overrides: Sequence[str] = ()
    cron: Annotated[str, AfterValidator(cron.fields)]
    timezone: Annotated[str, AfterValidator(cron.zone)] = "UTC"
    folder: Path = Field(description="where the sweep is started, and what a Ray job is given")
    address: Annotated[str, AfterValidator(_http)] | None = Field(None, description="of a Ray cluster; else it is here")
    promote: Name | None = None
    margin: float | None = Field(None, ge=0, le=1e9)
    grace_minutes: float = Field(
        60.0, ge=0, le=1_000_000, description="lateness after which an occurrence is not made up for"
    )
    added: AwareDatetime

    @property
    def times(self) -> CronTrigger:
        """Return when it recurs."""
        return CronTrigger(self.cron, self.timezone)

    def occurrence(self, at: datetime) -> str:
        """Return the id of an occurrence: the same for whoever asks, so that none is launched twice."""
        return f"{self.name}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"

    def words(self, at: datetime, root: Path) -> list[str]:
        """Return what python is given to run the sweep of an occurrence, with its results below root.

        A job's working directory is a copy that ends with it, so that root is told, whatever the config says.
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
    """One time at which a schedule was due, and what came of it."""

    at: AwareDatetime
    state: Word
    note: str = ""

    def now(self, state: OccurrenceState | None) -> "Occurrence":
        """Return it in the state that its launcher tells."""
        if state is None:
            return Occurrence(at=self.at, state="failed", note="nothing is known of it any more")
        return Occurrence(at=self.at, state=state.word, note=state.note)


class ScheduleState(Config):
    """What happened: all up to ``after`` is settled. The newest launched is kept: while it runs, others are skipped."""

    after: AwareDatetime
    launched: Occurrence | None = None
    passed: Occurrence | None = Field(None, description="the newest that was not launched, and why")

    @property
    def running(self) -> bool:
        """Return whether an occurrence ran when this was written."""
        return self.launched is not None and self.launched.state == "running"

    @property
    def last(self) -> Occurrence | None:
        """Return the newest occurrence."""
        return max((found for found in (self.launched, self.passed) if found), key=lambda o: o.at, default=None)


class ScheduleStore:
    """The files."""

    def __init__(self, root: Path) -> None:
        """Look below a storage.root. Raise UserError where that is a URI: its files are locked and kept by a daemon."""
        if is_remote(root):
            raise UserError(f"--storage {root}: schedules are kept in a folder of the machine whose daemon keeps them")
        self.root, self.folder = root.absolute(), root.absolute() / "schedules"

    def file(self, name: str) -> Path:
        """Return the file of a schedule."""
        return self.folder / f"{name}.yaml"

    def names(self) -> list[str]:
        """Return the schedules there are."""
        return sorted(file.stem for file in self.folder.glob("*.yaml"))

    def exclusive(self) -> AbstractContextManager[object]:
        """Return what keeps others out for the moment in which files are read and written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / LOCK)

    def add(self, schedule: RecurringSweep) -> None:
        """Write a schedule down. Raise UserError where there is one of that name."""
        with self.exclusive():
            if self.file(schedule.name).exists():
                raise UserError(f"--name: there is a schedule {schedule.name!r} already; remove it or name this one")
            text = dump(schedule.model_dump(mode="json", exclude_none=True))
            _write(self.file(schedule.name), text)

    def load(self, name: str) -> RecurringSweep:
        """Return a schedule. Raise UserError where there is none of that name or its file is spoilt."""
        if name not in self.names():
            raise self._unknown(name)
        raw = read(self.file(name))
        try:
            return validated(RecurringSweep, {**raw, "name": name})
        except UserError as error:
            raise UserError(f"{self.file(name)}: {error}") from None

    def remove(self, name: str) -> None:
        """Forget a schedule. Raise UserError where there is none."""
        if name not in self.names():
            raise self._unknown(name)
        with self.exclusive():
            self.file(name).unlink()
            (self.folder / f"{name}{STATE}").unlink(missing_ok=True)

    def past(self, schedule: RecurringSweep) -> ScheduleState:
        """Return what happened; of a schedule that is new nothing is due that lies before it was added."""
        file = self.folder / f"{schedule.name}{STATE}"
        if not file.exists():
            return ScheduleState(after=schedule.added)
        try:
            return ScheduleState.model_validate_json(file.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{file}: is not as it was written; without it the schedule begins anew") from None

    def write(self, name: str, past: ScheduleState) -> None:
        """Write down what happened."""
        _write(self.folder / f"{name}{STATE}", past.model_dump_json(indent=1) + "\n")

    def _unknown(self, name: str) -> UserError:
        return UserError(f"no schedule {name!r} in {self.folder}; {nearest(name, self.names())}")


def _write(file: Path, text: str) -> None:
    try:
        write_whole(file, text)
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror or error}); it is as it was") from None
