"""The reconciler of recurring sweeps: launches an occurrence that is due, or records it as skipped or missed."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from gen_ray.errors import RunError
from gen_ray.recurring.launcher import UNAVAILABLE, Launcher
from gen_ray.recurring.store import Occurrence, RecurringSweep, ScheduleState, ScheduleStore

RETRY_SECONDS = 30.0
"""Time between two requests to a cluster that does not answer. A request may take long and delays other schedules."""
logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


class Reconciler:
    """Compares schedules with the clock. All its state is in files, so that another reconciler can continue.

    Only the newest occurrence since the last check counts. It is launched if it is within the schedule's grace period
    and no other occurrence of the schedule runs. Otherwise it is recorded as missed or skipped. If the cluster does not
    answer, the launch is repeated within the grace period.
    """

    def __init__(
        self,
        store: ScheduleStore,
        launcher: Callable[[RecurringSweep], Launcher],
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the store of schedules, a function that returns the launcher of a schedule, and the clocks."""
        self.store, self.launcher, self.now, self.monotonic = store, launcher, now, monotonic
        self.asked_again_at: dict[str, float] = {}

    def reconcile(self, name: str) -> list[Occurrence]:
        """Launch or record the occurrence that is due. Return the occurrences whose state has changed."""
        if self.monotonic() < self.asked_again_at.get(name, 0.0):
            return []
        with self.store.exclusive():
            schedule = self.store.load(name)
            before = self.store.load_state(schedule)
            past = self._not_ahead(schedule, self.seen(schedule, before))
            due = schedule.times.last(self.now())
            if due is not None and due > past.after:
                past = self._settled(schedule, past, due)
            if past != before:
                self.store.write(name, past)
        old = (before.launched, before.passed)
        return [found for found in (past.launched, past.passed) if found is not None and found not in old]

    def refresh(self, name: str) -> None:
        """Record the present state of the launched occurrence."""
        with self.store.exclusive():
            schedule = self.store.load(name)
            self.store.write(name, self.seen(schedule, self.store.load_state(schedule)))

    def launch_now(self, name: str) -> Occurrence:
        """Launch an occurrence now, regardless of the schedule's times. Raise RunError if one runs already."""
        with self.store.exclusive():
            schedule = self.store.load(name)
            past = self.seen(schedule, self.store.load_state(schedule))
            if past.launched and past.running:
                raise RunError(f"{schedule.occurrence(past.launched.at)} still runs", reason="running")
            at = self.now().replace(microsecond=0)
            made = self._launched(schedule, at)
            self.store.write(name, past.model_copy(update={"launched": made}))
        return made

    def seen(self, schedule: RecurringSweep, past: ScheduleState) -> ScheduleState:
        """Return a schedule's state with the present state of the launched occurrence, if it is available now."""
        if past.launched is None or not past.running:
            return past
        try:
            state = self.launcher(schedule).state(schedule.occurrence(past.launched.at))
        except RunError as error:
            self._put_off(schedule, error)
            return past
        return past.model_copy(update={"launched": past.launched.now(state)})

    def _settled(self, schedule: RecurringSweep, past: ScheduleState, at: datetime) -> ScheduleState:
        """Launch the occurrence of a time, or record why not. Return the schedule's new state."""
        late = self.now() - at
        try:
            # A reconciler that died before it recorded the launch may have launched the occurrence already.
            state = self.launcher(schedule).state(schedule.occurrence(at))
            if state is not None:
                return self._after_launch(past, Occurrence(at=at, state="running").now(state))
            if past.launched and past.running:
                note = f"{schedule.occurrence(past.launched.at)} still runs"
                return past.model_copy(update={"after": at, "passed": Occurrence(at=at, state="skipped", note=note)})
            if late > timedelta(minutes=schedule.grace_minutes):
                note = f"noticed {timedelta(seconds=round(late.total_seconds()))} late"
                return past.model_copy(update={"after": at, "passed": Occurrence(at=at, state="missed", note=note)})
            return self._after_launch(past, self._launched(schedule, at))
        except RunError as error:
            self._put_off(schedule, error)
            if error.reason == UNAVAILABLE and late < timedelta(minutes=schedule.grace_minutes):
                return past.model_copy(update={"passed": Occurrence(at=at, state="waiting", note=str(error))})
            failed = Occurrence(at=at, state="failed", note=str(error))
            return past.model_copy(update={"after": at, "passed": failed})

    def _after_launch(self, past: ScheduleState, launched: Occurrence) -> ScheduleState:
        """Return a schedule's state with the launched occurrence, and without a waiting one."""
        passed = past.passed if past.passed and past.passed.state != "waiting" else None
        return ScheduleState(after=launched.at, launched=launched, passed=passed)

    def _not_ahead(self, schedule: RecurringSweep, past: ScheduleState) -> ScheduleState:
        """Return a schedule's state without times in the future, which remain if the clock was once ahead."""
        now = self.now()
        if past.after <= now:
            return past
        logger.warning(
            "%s: is settled until %s, which is in the future (was the clock ahead?); this counts as now",
            schedule.name,
            past.after.isoformat(),
        )
        try:
            self.launcher(schedule).free_ids(schedule.name, schedule.occurrence(now))
        except RunError as error:
            logger.warning("%s: %s", schedule.name, error)
        passed = past.passed if past.passed and past.passed.at <= now else None
        return ScheduleState(after=now, launched=past.launched, passed=passed)

    def _put_off(self, schedule: RecurringSweep, error: RunError) -> None:
        if error.reason == UNAVAILABLE:
            self.asked_again_at[schedule.name] = self.monotonic() + RETRY_SECONDS

    def _launched(self, schedule: RecurringSweep, at: datetime) -> Occurrence:
        words = schedule.words(at, self.store.root)
        self.launcher(schedule).launch(schedule.occurrence(at), words, schedule.folder)
        return Occurrence(at=at, state="running")
