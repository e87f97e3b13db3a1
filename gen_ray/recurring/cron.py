"""The times of a recurring sweep, by cron's five fields in a time zone."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from gen_ray.errors import nearest

FIELDS = "minute hour day-of-month month day-of-week"


class CronTrigger:
    """The times of cron's five fields. Monday is 1. If day of month and day of week are set, either one suffices.

    Daylight saving time follows Debian's cron: times in a skipped hour run at its end, and times in a repeated hour run
    once.
    """

    def __init__(self, fields: str, timezone: str) -> None:
        """Take the fields and the name of the time zone, which ``fields`` and ``zone`` have validated."""
        self.fields, self.zone = fields, ZoneInfo(timezone)

    def next(self, after: datetime) -> datetime | None:
        """Return the first time of the schedule after a given time, in UTC, or None if there is none in 50 years."""
        return next((at for at in self._from(after) if at > after), None)

    def last(self, now: datetime) -> datetime | None:
        """Return the last time of the schedule that is not after now, in UTC, or None."""
        # CronSim searches backwards from an excluded start, hence the added second. Where daylight saving time ends, it
        # does not find the newest time, hence the loop.
        local = now.astimezone(self.zone).replace(microsecond=0) + timedelta(seconds=1)
        found = next(CronSim(self.fields, local, reverse=True), None)
        if found is None:
            return None
        newest = found.astimezone(UTC)
        for at in self._from(newest):
            if at > now:
                return newest
            newest = at
        return newest

    def _from(self, start: datetime) -> Iterator[datetime]:
        return (at.astimezone(UTC) for at in CronSim(self.fields, start.astimezone(self.zone)))


def fields(words: str) -> str:
    """Return words unchanged. Raise ValueError unless they are cron's five fields."""
    example = f'five fields are expected ({FIELDS}), e.g. "0 2 * * *"'
    if len(words.split()) != 5:  # cronsim also accepts seconds
        raise ValueError(example)
    try:
        CronSim(words, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()}; {example}") from None
    return words


def zone(name: str) -> str:
    """Return name unchanged. Raise ValueError unless it is the name of a time zone."""
    known = available_timezones()
    if name not in known:
        close = nearest(name, known).split(" (known")[0]
        raise ValueError(close if close.startswith("did") else "is not a time zone, e.g. Europe/Berlin or UTC")
    return name
