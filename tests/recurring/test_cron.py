"""Cron triggers: fields have the meaning of cron, and previous times agree with following times."""

from datetime import UTC, datetime, timedelta

import pytest

from gen_ray.recurring import cron
from gen_ray.recurring.cron import CronTrigger


def utc(words: str) -> datetime:
    return datetime.fromisoformat(words).replace(tzinfo=UTC)


def following(times: CronTrigger, after: datetime, n: int) -> list[datetime]:
    found: list[datetime] = []
    for _ in range(n):
        at = times.next(found[-1] if found else after)
        assert at is not None
        found.append(at)
    return found


def test_weekday_one_is_monday_and_zero_and_seven_are_sunday() -> None:
    for weekday, day in (("1", "2026-11-23"), ("0", "2026-11-22"), ("7", "2026-11-22")):
        assert CronTrigger(f"0 2 * * {weekday}", "UTC").next(utc("2026-11-21")) == utc(f"{day}T02:00")


def test_day_of_month_or_day_of_week_must_match() -> None:
    found = following(CronTrigger("0 0 13 * 5", "UTC"), utc("2026-11-01"), 5)
    assert [at.day for at in found] == [6, 13, 20, 27, 4]
    assert [at.day for at in following(CronTrigger("0 0 15 * 5", "UTC"), utc("2026-11-07"), 3)] == [13, 15, 20]


def test_a_skipped_hour_is_made_up_and_a_repeated_hour_counts_once() -> None:
    berlin = CronTrigger("30 2 * * *", "Europe/Berlin")
    assert following(berlin, utc("2026-03-27T12:00"), 3) == [
        utc("2026-03-28T01:30"), utc("2026-03-29T01:00"), utc("2026-03-30T00:30"),
    ]  # fmt: skip
    assert following(berlin, utc("2026-10-23T12:00"), 3) == [
        utc("2026-10-24T00:30"), utc("2026-10-25T00:30"), utc("2026-10-26T01:30"),
    ]  # fmt: skip
    assert berlin.next(utc("2026-10-25T01:15")) == utc("2026-10-26T01:30")  # the second 2:15 of that simulated


@pytest.mark.parametrize("fields", ["30 2 * * *", "*/20 * * * *", "10,50 1-3 * * *", "0 */2 * * *", "0 0 13 * 5"])
@pytest.mark.parametrize("start", ["2026-03-28T20:00", "2026-10-24T20:00", "2026-12-31T20:00"])
def test_the_newest_time_is_the_last_of_the_following_times(fields: str, start: str) -> None:
    times, now = CronTrigger(fields, "Europe/Berlin"), utc(start)
    last = times.last(now)
    assert last is not None and last <= now
    for _ in range(14 * 12):  # in steps of five minutes through the simulated of the clock change
        now += timedelta(minutes=5)
        while (after := times.next(last)) is not None and after <= now:
            last = after
        assert times.last(now) == last


def test_a_due_time_is_its_own_newest_time() -> None:
    at, times = utc("2026-11-23T02:00"), CronTrigger("0 2 * * *", "UTC")
    assert times.last(at) == times.last(at + timedelta(microseconds=1)) == at
    assert times.last(at - timedelta(microseconds=1)) == at - timedelta(days=1)
    assert times.next(at) == at + timedelta(days=1)


def test_a_rare_time_is_found() -> None:
    assert CronTrigger("0 0 29 2 *", "UTC").next(utc("2026-11-23")) == utc("2028-02-29")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "five fields"), ("0 2 * *", "five fields"), ("0 0 2 * * *", "five fields"), ("61 * * * *", "bad minute"),
        ("0 0 31 2 *", "bad day-of-month"), ("0 0 * * 8", "bad day-of-week"), ("daily at two o clock", "bad minute"),
    ],
)  # fmt: skip
def test_an_invalid_cron_expression_is_refused(words: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        cron.fields(words)


@pytest.mark.parametrize(
    ("name", "expected"), [("Europe/Berln", "'Europe/Berlin'"), ("../etc/passwd", "not a time zone")]
)
def test_an_invalid_time_zone_is_refused(name: str, expected: str) -> None:
    assert cron.zone("Europe/Berlin") == "Europe/Berlin"
    with pytest.raises(ValueError, match=expected):
        cron.zone(name)
