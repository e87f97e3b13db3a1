"""The reconciler: one launch per occurrence, never two at once, the newest missed one later; it may die anywhere."""

import errno
import os
from datetime import timedelta
from pathlib import Path

import pytest

from gen_ray.errors import RunError, UserError
from gen_ray.recurring.reconciler import RETRY_SECONDS
from gen_ray.recurring.store import ScheduleStore
from tests.recurring.simulation import DAY, HOUR, MONDAY, SimulatedSchedule, nightly

FIRST, SECOND = "nightly-20261123T020000Z", "nightly-20261124T020000Z"
SECONDS, RETRY = timedelta(seconds=2), timedelta(seconds=RETRY_SECONDS)


@pytest.fixture
def simulated(tmp_path: Path) -> SimulatedSchedule:
    return SimulatedSchedule(tmp_path)


def test_an_occurrence_is_launched_when_it_is_due_and_once(simulated: SimulatedSchedule) -> None:
    assert simulated.reconcile(MONDAY - SECONDS) == [] and simulated.launched == []
    assert simulated.reconcile(MONDAY) == [("running", "")]
    assert simulated.reconcile(MONDAY + SECONDS) == [] and simulated.launched == [FIRST]
    simulated.end(FIRST)
    assert simulated.reconcile(MONDAY + HOUR) == [("done", "")]
    assert simulated.reconcile(MONDAY + DAY) == [("running", "")] and simulated.launched == [FIRST, SECOND]


def test_the_command_names_the_sweep_the_schedule_and_the_storage(tmp_path: Path) -> None:
    simulated = SimulatedSchedule(
        tmp_path, overrides=["trials=2"], timezone="Europe/Berlin", cron="0 3 * * *", promote="digits", margin=0.5
    )
    simulated.reconcile(MONDAY)
    [(occurrence, words)] = simulated.fake.submitted
    assert occurrence == FIRST and words == [
        "-m", "pipelines.sweep", "sweep.yaml", "trials=2", f'storage.root="{tmp_path}"',
        "--tag", "gen_ray.schedule=nightly", "--tag", "gen_ray.occurrence=2026-11-23T03:00:00+01:00",
        "--promote", "digits", "--margin", "0.5",
    ]  # fmt: skip


def test_an_occurrence_is_skipped_with_a_note_while_the_previous_one_runs(simulated: SimulatedSchedule) -> None:
    simulated.reconcile(MONDAY)
    assert simulated.reconcile(MONDAY + DAY) == [("skipped", f"{FIRST} still runs")] and simulated.launched == [FIRST]
    simulated.end(FIRST, "failed")
    assert simulated.reconcile(MONDAY + DAY + HOUR) == [("failed", "")]
    assert simulated.past.last is not None and simulated.past.last.state == "skipped"
    assert simulated.reconcile(MONDAY + 2 * DAY) == [("running", "")]


@pytest.mark.parametrize(
    ("late", "launched", "known"),
    [(HOUR, [SECOND], [("running", "")]), (HOUR + SECONDS, [], [("missed", "noticed 1:00:02 late")])],
)
def test_only_the_newest_missed_occurrence_is_launched_within_its_grace(
    simulated: SimulatedSchedule, late: timedelta, launched: list[str], known: list[tuple[str, str]]
) -> None:
    assert simulated.reconcile(MONDAY + DAY + late) == known and simulated.launched == launched
    simulated.restart()
    assert simulated.reconcile(MONDAY + DAY + late) == [] and simulated.launched == launched
    simulated.end(SECOND)
    simulated.reconcile(MONDAY + 2 * DAY)
    assert simulated.launched == [*launched, "nightly-20261125T020000Z"]


def test_times_before_the_schedule_was_added_are_not_missed(tmp_path: Path) -> None:
    simulated = SimulatedSchedule(tmp_path, added=MONDAY + SECONDS)
    assert simulated.reconcile(MONDAY + 2 * SECONDS) == [] and simulated.past.last is None


def test_a_reconciler_that_died_before_writing_launches_nothing_twice(simulated: SimulatedSchedule) -> None:
    simulated.reconcile(MONDAY)
    (simulated.store.folder / "nightly.state.json").unlink()
    simulated.restart()
    assert simulated.reconcile(MONDAY + 3 * HOUR) == [("running", "")] and simulated.launched == [FIRST]


def test_a_restarted_reconciler_knows_the_running_occurrence(simulated: SimulatedSchedule) -> None:
    simulated.reconcile(MONDAY)
    simulated.restart()
    assert simulated.reconcile(MONDAY + DAY) == [("skipped", f"{FIRST} still runs")]
    simulated.fake.states.clear()  # a new cluster does not know the job
    assert simulated.reconcile(MONDAY + DAY + HOUR) == [("failed", "its launcher has no record of it")]


AWAY = "Ray jobs at http://head:8265: no answer"


def test_an_occurrence_is_retried_within_its_grace_if_the_cluster_is_unavailable(simulated: SimulatedSchedule) -> None:
    simulated.fake.away = True
    assert simulated.reconcile(MONDAY) == [("waiting", AWAY)] and simulated.reconcile(MONDAY + RETRY) == []
    simulated.restart()
    assert simulated.reconcile(MONDAY + HOUR / 2) == [] and simulated.launched == []
    simulated.fake.away = False
    assert simulated.reconcile(MONDAY + HOUR / 2 + RETRY) == [("running", "")] and simulated.launched == [FIRST]
    assert simulated.past.passed is None
    simulated.end(FIRST)
    assert simulated.reconcile(MONDAY + DAY) == [("running", "")] and simulated.launched == [FIRST, SECOND]


def test_an_unavailable_cluster_is_not_queried_every_time(simulated: SimulatedSchedule) -> None:
    simulated.fake.away = True
    simulated.reconcile(MONDAY)
    simulated.fake.away = False
    assert simulated.reconcile(MONDAY + RETRY - SECONDS) == [] and simulated.launched == []
    assert simulated.reconcile(MONDAY + RETRY) == [("running", "")]


def test_after_its_grace_an_occurrence_of_an_unavailable_cluster_has_failed(simulated: SimulatedSchedule) -> None:
    simulated.reconcile(MONDAY)
    simulated.fake.away = True
    simulated.reconcile(MONDAY + DAY)
    assert simulated.reconcile(MONDAY + DAY + HOUR) == [("failed", AWAY)]
    simulated.fake.away = False
    assert simulated.reconcile(MONDAY + DAY + 2 * HOUR) == [] and simulated.launched == [FIRST]
    assert simulated.reconcile(MONDAY + 2 * DAY) == [("skipped", f"{FIRST} still runs")], (
        "the running occurrence is not forgotten"
    )


def test_without_grace_an_occurrence_of_an_unavailable_cluster_fails_at_once(tmp_path: Path) -> None:
    simulated = SimulatedSchedule(tmp_path, grace_minutes=0)
    simulated.fake.away = True
    assert simulated.reconcile(MONDAY) == [("failed", AWAY)]


@pytest.mark.parametrize("ended", [True, False])
def test_a_clock_that_was_ahead_delays_no_occurrence(
    simulated: SimulatedSchedule, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    simulated.reconcile(MONDAY + DAY)
    if ended:
        simulated.end(SECOND)
    for news in ([("done", "")] if ended else [], []):  # the clock is corrected: one line reports it
        assert simulated.reconcile(MONDAY - HOUR) == news
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("nightly: is settled until 2026-11-24T02:00:00+00:00, which is in the future")
    if not ended:
        assert simulated.reconcile(MONDAY) == [("skipped", f"{SECOND} still runs")]
        simulated.end(SECOND)
        simulated.reconcile(MONDAY + HOUR)
    else:
        assert simulated.reconcile(MONDAY) == [("running", "")]
        simulated.end(FIRST)
        assert simulated.reconcile(MONDAY + DAY) == [("running", "")], (
            "although its id was used when the clock was ahead"
        )
        assert simulated.launched == [SECOND, FIRST, SECOND]


def test_a_schedule_that_was_added_when_the_clock_was_ahead_recurs_from_now_on(tmp_path: Path) -> None:
    simulated = SimulatedSchedule(tmp_path, added=MONDAY + 300 * DAY)
    assert simulated.reconcile(MONDAY - HOUR) == [] and simulated.reconcile(MONDAY) == [("running", "")]


def test_a_manual_occurrence_is_launched_unless_one_runs_and_shifts_no_other(simulated: SimulatedSchedule) -> None:
    simulated.now = MONDAY - HOUR
    simulated.reconciler.launch_now("nightly")
    with pytest.raises(RunError, match="nightly-20261123T010000Z still runs"):
        simulated.reconciler.launch_now("nightly")
    simulated.end("nightly-20261123T010000Z")
    assert simulated.reconcile(MONDAY) == [("running", "")] and simulated.launched[-1] == FIRST


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
def test_a_full_disk_is_reported_with_the_file(
    simulated: SimulatedSchedule, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gen_ray.recurring.store.write_atomic", refuse)
    with pytest.raises(RunError, match=rf"other\.yaml: cannot be written \({os.strerror(number)}\)"):
        simulated.store.add(nightly(simulated.store.root, name="other"))
    with pytest.raises(RunError, match=r"nightly\.state\.json: cannot be written"):
        simulated.reconcile(MONDAY)
    monkeypatch.undo()
    simulated.restart()
    assert simulated.reconcile(MONDAY) == [("running", "")] and simulated.launched == [FIRST], "launched once"


def test_a_damaged_state_is_named(simulated: SimulatedSchedule) -> None:
    file = simulated.store.folder / "nightly.state.json"
    file.write_text("{")
    with pytest.raises(UserError, match=str(file)):
        simulated.reconcile(MONDAY)
