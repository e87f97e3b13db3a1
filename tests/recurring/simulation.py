"""A nightly schedule at two o'clock, a clock set by the test, and a launcher that starts nothing."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gen_ray.errors import RunError
from gen_ray.recurring.launcher import UNAVAILABLE, OccurrenceState, later
from gen_ray.recurring.reconciler import Reconciler
from gen_ray.recurring.store import RecurringSweep, ScheduleState, ScheduleStore

MONDAY = datetime(2026, 11, 23, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def nightly(root: Path, **changed: object) -> RecurringSweep:
    raw = {
        "name": "nightly", "config": "sweep.yaml", "cron": "0 2 * * *", "folder": root,
        "added": MONDAY - 12 * HOUR, **changed,
    }  # fmt: skip
    return RecurringSweep.model_validate(raw)


class FakeLauncher:
    """A fake launcher that records launches; the test sets the states of occurrences."""

    def __init__(self) -> None:
        self.states: dict[str, OccurrenceState] = {}
        self.submitted: list[tuple[str, Sequence[str]]] = []
        self.away = False

    def launch(self, occurrence: str, words: Sequence[str], folder: Path) -> None:
        self.submitted.append((occurrence, words))
        self.states.setdefault(occurrence, OccurrenceState("running"))

    def state(self, occurrence: str) -> OccurrenceState | None:
        if self.away:
            raise RunError("Ray jobs at http://head:8265: no answer", reason=UNAVAILABLE)
        return self.states.get(occurrence)

    def end_all(self) -> None:
        self.states = dict.fromkeys(self.states, OccurrenceState("done"))

    def free_ids(self, schedule: str, after: str) -> None:
        for occurrence in list(later(self.states, schedule, after)):
            if self.states[occurrence].word != "running":
                del self.states[occurrence]

    def close(self) -> None:
        pass


class SimulatedSchedule:
    """A reconciler of one schedule with its files and launcher."""

    def __init__(self, root: Path, **changed: object) -> None:
        self.now, self.fake, self.store = MONDAY - HOUR, FakeLauncher(), ScheduleStore(root)
        self.store.add(nightly(root, **changed))
        self.restart()

    def restart(self) -> None:
        """Continue with another reconciler, which has only the files."""
        self.reconciler = Reconciler(self.store, lambda _: self.fake, lambda: self.now, lambda: self.now.timestamp())

    def reconcile(self, now: datetime) -> list[tuple[str, str]]:
        """Run the reconciler at a time and return states and notes of the reported occurrences."""
        self.now = now
        return [(found.state, found.note) for found in self.reconciler.reconcile("nightly")]

    def end(self, occurrence: str, word: str = "done") -> None:
        self.fake.states[occurrence] = OccurrenceState(word)  # type: ignore[arg-type]

    @property
    def launched(self) -> list[str]:
        return [occurrence for occurrence, _ in self.fake.submitted]

    @property
    def past(self) -> ScheduleState:
        return self.store.load_state(self.store.load("nightly"))
