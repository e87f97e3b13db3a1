"""When a schedule is due, in cron's own meaning of five fields and in a time zone."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from gen_ray.errors import nearest

FIELDS = "minute hour day-of-month month day-of-week"


class CronTrigger:
    """Five fields as cron has them: Monday is 1, and of a day of the month and a day of the week either will do.

    Daylight saving time is Debian cron's: an hour left out is made up for at its end, one that comes twice counts once.
    """

    def __init__(self, fields: str, timezone: str) -> None:
        """Take fields and zone that ``fields`` and ``zone`` have checked."""
        self.fields, self.zone = fields, ZoneInfo(timezone)

    def next(self, after: datetime) -> datetime | None:
        """Return the first time after a time, in UTC; None where there is none in 50 years."""
        return next((at for at in self._from(after) if at > after), None)

    def last(self, now: datetime) -> datetime | None:
        """Return the newest time that is not after now, in UTC."""
        # A second later it is asked for what lies before; where the clock was put back it stops short of the newest.
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
    """Return words if they are cron's fields. Raise ValueError."""
    example = f'five fields are expected ({FIELDS}), e.g. "0 2 * * *"'
    if len(words.split()) != 5:  # cronsim itself knows of seconds too
        raise ValueError(example)
    try:
        CronSim(words, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()}; {example}") from None
    return words


def zone(name: str) -> str:
    """Return name if it is that of a time zone. Raise ValueError."""
    known = available_timezones()
    if name not in known:
        close = nearest(name, known).split(" (known")[0]
        raise ValueError(close if close.startswith("did") else "is no time zone; one is e.g. Europe/Berlin or UTC")
    return name
