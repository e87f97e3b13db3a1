"""The reconciler: one launch per occurrence, never two at once, the newest missed one later; it may die anywhere."""

import errno
import os
from datetime import timedelta
from pathlib import Path

import pytest

from gen_ray.errors import RunError, UserError
from gen_ray.recurring.reconciler import RETRY_SECONDS
from gen_ray.recurring.store import ScheduleStore
from tests.schedules.night import DAY, HOUR, MONDAY, Night, nightly

FIRST, SECOND = "nightly-20261123T020000Z", "nightly-20261124T020000Z"
SECONDS, RETRY = timedelta(seconds=2), timedelta(seconds=RETRY_SECONDS)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_an_occurrence_is_launched_when_it_is_due_and_once(night: Night) -> None:
    assert night.reconcile(MONDAY - SECONDS) == [] and night.launched == []
    assert night.reconcile(MONDAY) == [("running", "")]
    assert night.reconcile(MONDAY + SECONDS) == [] and night.launched == [FIRST]
    night.end(FIRST)
    assert night.reconcile(MONDAY + HOUR) == [("done", "")]
    assert night.reconcile(MONDAY + DAY) == [("running", "")] and night.launched == [FIRST, SECOND]


def test_the_command_names_the_sweep_the_schedule_and_the_storage(tmp_path: Path) -> None:
    night = Night(
        tmp_path, overrides=["trials=2"], timezone="Europe/Berlin", cron="0 3 * * *", promote="digits", margin=0.5
    )
    night.reconcile(MONDAY)
    [(occurrence, words)] = night.paper.asked
    assert occurrence == FIRST and words == [
        "-m", "pipelines.sweep", "sweep.yaml", "trials=2", f'storage.root="{tmp_path}"',
        "--tag", "gen_ray.schedule=nightly", "--tag", "gen_ray.occurrence=2026-11-23T03:00:00+01:00",
        "--promote", "digits", "--margin", "0.5",
    ]  # fmt: skip


def test_an_occurrence_is_skipped_with_a_note_while_the_previous_one_runs(night: Night) -> None:
    night.reconcile(MONDAY)
    assert night.reconcile(MONDAY + DAY) == [("skipped", f"{FIRST} still runs")] and night.launched == [FIRST]
    night.end(FIRST, "failed")
    assert night.reconcile(MONDAY + DAY + HOUR) == [("failed", "")]
    assert night.past.last is not None and night.past.last.state == "skipped"
    assert night.reconcile(MONDAY + 2 * DAY) == [("running", "")]


@pytest.mark.parametrize(
    ("late", "launched", "known"),
    [(HOUR, [SECOND], [("running", "")]), (HOUR + SECONDS, [], [("missed", "noticed 1:00:02 late")])],
)
def test_only_the_newest_missed_occurrence_is_launched_within_its_grace(
    night: Night, late: timedelta, launched: list[str], known: list[tuple[str, str]]
) -> None:
    assert night.reconcile(MONDAY + DAY + late) == known and night.launched == launched
    night.restart()
    assert night.reconcile(MONDAY + DAY + late) == [] and night.launched == launched
    night.end(SECOND)
    night.reconcile(MONDAY + 2 * DAY)
    assert night.launched == [*launched, "nightly-20261125T020000Z"]


def test_times_before_the_schedule_was_added_are_not_missed(tmp_path: Path) -> None:
    night = Night(tmp_path, added=MONDAY + SECONDS)
    assert night.reconcile(MONDAY + 2 * SECONDS) == [] and night.past.last is None


def test_a_reconciler_that_died_before_writing_launches_nothing_twice(night: Night) -> None:
    night.reconcile(MONDAY)
    (night.store.folder / "nightly.state.json").unlink()
    night.restart()
    assert night.reconcile(MONDAY + 3 * HOUR) == [("running", "")] and night.launched == [FIRST]


def test_a_restarted_reconciler_knows_the_running_occurrence(night: Night) -> None:
    night.reconcile(MONDAY)
    night.restart()
    assert night.reconcile(MONDAY + DAY) == [("skipped", f"{FIRST} still runs")]
    night.paper.states.clear()  # a new cluster does not know the job
    assert night.reconcile(MONDAY + DAY + HOUR) == [("failed", "its launcher has no record of it")]


AWAY = "Ray jobs at http://head:8265: no answer"


def test_an_occurrence_is_retried_within_its_grace_if_the_cluster_is_unavailable(night: Night) -> None:
    night.paper.away = True
    assert night.reconcile(MONDAY) == [("waiting", AWAY)] and night.reconcile(MONDAY + RETRY) == []
    night.restart()
    assert night.reconcile(MONDAY + HOUR / 2) == [] and night.launched == []
    night.paper.away = False
    assert night.reconcile(MONDAY + HOUR / 2 + RETRY) == [("running", "")] and night.launched == [FIRST]
    assert night.past.passed is None
    night.end(FIRST)
    assert night.reconcile(MONDAY + DAY) == [("running", "")] and night.launched == [FIRST, SECOND]


def test_an_unavailable_cluster_is_not_queried_every_time(night: Night) -> None:
    night.paper.away = True
    night.reconcile(MONDAY)
    night.paper.away = False
    assert night.reconcile(MONDAY + RETRY - SECONDS) == [] and night.launched == []
    assert night.reconcile(MONDAY + RETRY) == [("running", "")]


def test_after_its_grace_an_occurrence_of_an_unavailable_cluster_has_failed(night: Night) -> None:
    night.reconcile(MONDAY)
    night.paper.away = True
    night.reconcile(MONDAY + DAY)
    assert night.reconcile(MONDAY + DAY + HOUR) == [("failed", AWAY)]
    night.paper.away = False
    assert night.reconcile(MONDAY + DAY + 2 * HOUR) == [] and night.launched == [FIRST]
    assert night.reconcile(MONDAY + 2 * DAY) == [("skipped", f"{FIRST} still runs")], (
        "the running occurrence is not forgotten"
    )


def test_without_grace_an_occurrence_of_an_unavailable_cluster_fails_at_once(tmp_path: Path) -> None:
    night = Night(tmp_path, grace_minutes=0)
    night.paper.away = True
    assert night.reconcile(MONDAY) == [("failed", AWAY)]


@pytest.mark.parametrize("ended", [True, False])
def test_a_clock_that_was_ahead_delays_no_occurrence(
    night: Night, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    night.reconcile(MONDAY + DAY)
    if ended:
        night.end(SECOND)
    for news in ([("done", "")] if ended else [], []):  # the clock is corrected: one line reports it
        assert night.reconcile(MONDAY - HOUR) == news
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("nightly: is settled until 2026-11-24T02:00:00+00:00, which is in the future")
    if not ended:
        assert night.reconcile(MONDAY) == [("skipped", f"{SECOND} still runs")]
        night.end(SECOND)
        night.reconcile(MONDAY + HOUR)
    else:
        assert night.reconcile(MONDAY) == [("running", "")]
        night.end(FIRST)
        assert night.reconcile(MONDAY + DAY) == [("running", "")], "although its id was used when the clock was ahead"
        assert night.launched == [SECOND, FIRST, SECOND]


def test_a_schedule_that_was_added_when_the_clock_was_ahead_recurs_from_now_on(tmp_path: Path) -> None:
    night = Night(tmp_path, added=MONDAY + 300 * DAY)
    assert night.reconcile(MONDAY - HOUR) == [] and night.reconcile(MONDAY) == [("running", "")]


def test_a_manual_occurrence_is_launched_unless_one_runs_and_shifts_no_other(night: Night) -> None:
    night.now = MONDAY - HOUR
    night.reconciler.launch_now("nightly")
    with pytest.raises(RunError, match="nightly-20261123T010000Z still runs"):
        night.reconciler.launch_now("nightly")
    night.end("nightly-20261123T010000Z")
    assert night.reconcile(MONDAY) == [("running", "")] and night.launched[-1] == FIRST


def test_a_schedule_store_separates_names_and_reads_only_its_own_files(tmp_path: Path) -> None:
    store = ScheduleStore(tmp_path / "root")
    for unknown in (lambda: store.load("nightly"), lambda: store.remove("nightly"), lambda: store.remove("../outside")):
        (tmp_path / "outside.yaml").write_text("kept: true\n")
        with pytest.raises(UserError, match="no schedule"):
            unknown()
    assert not store.folder.exists()
    store.add(nightly(tmp_path))
    with pytest.raises(UserError, match="there is a schedule 'nightly' already"):
        store.add(nightly(tmp_path, cron="0 3 * * *"))
    assert store.load("nightly").cron == "0 2 * * *" and store.names() == ["nightly"]
    store.file("nightly").write_text("config: sweep.yaml\ncron: 0 2 * *\n")
    with pytest.raises(UserError, match=r"nightly\.yaml: cron: five fields"):
        store.load("nightly")
    store.remove("nightly")
    assert store.names() == [] and (tmp_path / "outside.yaml").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_a_full_disk_is_reported_with_the_file(night: Night, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gen_ray.recurring.store.write_atomic", refuse)
    with pytest.raises(RunError, match=rf"other\.yaml: cannot be written \({os.strerror(number)}\)"):
        night.store.add(nightly(night.store.root, name="other"))
    with pytest.raises(RunError, match=r"nightly\.state\.json: cannot be written"):
        night.reconcile(MONDAY)
    monkeypatch.undo()
    night.restart()
    assert night.reconcile(MONDAY) == [("running", "")] and night.launched == [FIRST], "launched once"


def test_a_damaged_state_is_named(night: Night) -> None:
    file = night.store.folder / "nightly.state.json"
    file.write_text("{")
    with pytest.raises(UserError, match=str(file)):
        night.reconcile(MONDAY)
