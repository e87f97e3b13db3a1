"""The daemon: APScheduler wakes it when a schedule is due, and now and then to see which schedules there are."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from filelock import FileLock, Timeout

from gen_ray.errors import UserError
from gen_ray.schedules.book import Schedule
from gen_ray.schedules.cron import Cron
from gen_ray.schedules.keeper import Keeper, utc_now

LOOK_SECONDS = 2.0
LOCK, RESCAN = "daemon.lock", "every schedule"  # a space is in no schedule's name


class OnTime(BaseTrigger):
    """APScheduler's view of a Cron, whose own crontab has another meaning."""

    def __init__(self, times: Cron) -> None:
        """Fire at these times."""
        self.times = times

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the next time from now on: what has passed is the keeper's to settle, from the files."""
        return self.times.next(now)


class Daemon:
    """Runs a keeper until it is interrupted.

    APScheduler keeps its jobs in memory: its stores on disk are pickles, and the schedules' files say all there is to
    know. Its one thread does one thing after another, none of which takes long, so that no two meet at a file.
    """

    def __init__(self, keeper: Keeper, tell: Callable[[str], None]) -> None:
        """Tell of what happens line by line."""
        self.keeper, self.book, self.tell = keeper, keeper.book, tell
        self.scheduler = BlockingScheduler(timezone=UTC, executors={"default": ThreadPoolExecutor(1)})
        self.known: dict[str, int] = {}

    def run(self) -> None:
        """Block. Raise UserError where another daemon keeps these schedules."""
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)  # it warns of a look that takes long
        self.book.folder.mkdir(parents=True, exist_ok=True)
        try:
            alone = FileLock(self.book.folder / LOCK).acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.book.folder}: another gen-ray schedule run keeps these schedules") from None
        with alone:
            self._add(self.rescan, IntervalTrigger(seconds=LOOK_SECONDS, timezone=UTC), RESCAN, [])
            try:
                self.scheduler.start()
            finally:
                if self.scheduler.running:
                    self.scheduler.shutdown()

    def rescan(self) -> None:
        """Take schedules up that are new or changed, drop those that are gone, and see what has ended."""
        there = {name: self.book.file(name).stat().st_mtime_ns for name in self.book.names()}
        for name in self.known.keys() - there.keys():
            self._drop(name)
            self.tell(f"{name}: removed")
        for name, changed in there.items():
            if self.known.get(name) != changed:
                self._take(name)
            elif self.scheduler.get_job(name):
                self.look(name)
        self.known = there

    def look(self, name: str) -> None:
        """Have the keeper look, and tell what it found."""
        try:
            schedule, found = self.book.load(name), self.keeper.look(name)
        except UserError as error:  # removed or spoilt this moment: the next rescan drops it
            self.tell(f"{name}: {error}")
            return
        for one in found:
            self.tell(f"{schedule.occurrence(one.at)}: {one.state}{one.note and ': '}{one.note}")

    def _take(self, name: str) -> None:
        self._drop(name)
        try:
            schedule: Schedule = self.book.load(name)
        except UserError as error:  # told once, and again when the file is changed
            self.tell(str(error))
            return
        self._add(self.look, OnTime(schedule.times), name, [name])
        self.tell(f"{name}: {schedule.cron} {schedule.timezone}, next {schedule.times.next(utc_now())}")

    def _drop(self, name: str) -> None:
        if self.scheduler.get_job(name):
            self.scheduler.remove_job(name)

    def _add(self, do: Callable[..., None], trigger: BaseTrigger, name: str, args: list[str]) -> None:
        """Have something done at once and whenever the trigger says; late is never too late for that."""
        self.scheduler.add_job(
            do, trigger, args, id=name, next_run_time=utc_now(), misfire_grace_time=None, coalesce=True
        )
