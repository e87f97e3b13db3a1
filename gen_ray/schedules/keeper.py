"""What becomes of an occurrence that is due. The clock, the launchers and the files are all it knows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from gen_ray.errors import RunError
from gen_ray.schedules.book import Book, Occurrence, Past, Schedule
from gen_ray.schedules.launcher import Launcher


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class Keeper:
    """Holds schedules against the time. It remembers nothing: another one goes on where this one was killed.

    Of the occurrences that have passed since it last looked the newest counts. It is launched if it is not later than
    the schedule's grace and no other one of the schedule runs; else it is written down as missed or skipped.
    """

    def __init__(
        self, book: Book, launcher: Callable[[Schedule], Launcher], now: Callable[[], datetime] = utc_now
    ) -> None:
        """Keep the schedules of a book; launcher says what runs which."""
        self.book, self.launcher, self.now = book, launcher, now

    def look(self, name: str) -> list[Occurrence]:
        """Settle what is due, and return the occurrences of which something has become known."""
        with self.book.exclusive():
            schedule = self.book.load(name)
            before = self.book.past(schedule)
            past = self.seen(schedule, before)
            due = schedule.times.last(self.now())
            if due is not None and due > past.after:
                past = self._settled(schedule, past, due)
            if past != before:
                self.book.write(name, past)
        old = (before.launched, before.passed)
        return [found for found in (past.launched, past.passed) if found is not None and found not in old]

    def refresh(self, name: str) -> None:
        """Write down what has become of an occurrence that ran."""
        with self.book.exclusive():
            schedule = self.book.load(name)
            self.book.write(name, self.seen(schedule, self.book.past(schedule)))

    def once(self, name: str) -> Occurrence:
        """Launch an occurrence of now, whatever the schedule says. Raise RunError where one runs already."""
        with self.book.exclusive():
            schedule = self.book.load(name)
            past = self.seen(schedule, self.book.past(schedule))
            if past.launched and past.running:
                raise RunError(f"{schedule.occurrence(past.launched.at)} still runs", reason="running")
            at = self.now().replace(microsecond=0)
            made = self._launched(schedule, at)
            self.book.write(name, past.model_copy(update={"launched": made}))
        return made

    def seen(self, schedule: Schedule, past: Past) -> Past:
        """Return a past with the present state of what ran; unchanged where that cannot be known now."""
        if past.launched is None or not past.running:
            return past
        try:
            state = self.launcher(schedule).state(schedule.occurrence(past.launched.at))
        except RunError:
            return past
        return past.model_copy(update={"launched": past.launched.now(state)})

    def _settled(self, schedule: Schedule, past: Past, at: datetime) -> Past:
        """Launch what is due, or say why not."""
        late = self.now() - at
        try:
            # A keeper that died before it wrote this down may have launched it already.
            state = self.launcher(schedule).state(schedule.occurrence(at))
            if state is not None:
                return Past(after=at, launched=Occurrence(at=at, state="running").now(state), passed=past.passed)
            if past.launched and past.running:
                note = f"{schedule.occurrence(past.launched.at)} still runs"
                return past.model_copy(update={"after": at, "passed": Occurrence(at=at, state="skipped", note=note)})
            if late > timedelta(minutes=schedule.grace_minutes):
                note = f"noticed {timedelta(seconds=round(late.total_seconds()))} late"
                return past.model_copy(update={"after": at, "passed": Occurrence(at=at, state="missed", note=note)})
            return Past(after=at, launched=self._launched(schedule, at), passed=past.passed)
        except RunError as error:
            failed = Occurrence(at=at, state="failed", note=str(error))
            return past.model_copy(update={"after": at, "passed": failed})

    def _launched(self, schedule: Schedule, at: datetime) -> Occurrence:
        words = schedule.words(at, self.book.root)
        self.launcher(schedule).launch(schedule.occurrence(at), words, schedule.folder)
        return Occurrence(at=at, state="running")
