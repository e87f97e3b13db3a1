"""The daemon: it notices added and removed schedules, runs only once, and tolerates changes of the clock."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest

from gen_ray.errors import UserError
from gen_ray.recurring import daemon
from gen_ray.recurring.daemon import Daemon
from gen_ray.recurring.reconciler import Reconciler
from gen_ray.recurring.store import ScheduleStore
from tests.conftest import ROOT
from tests.recurring.simulation import FakeLauncher, nightly


@pytest.fixture
def store(tmp_path: Path) -> ScheduleStore:
    return ScheduleStore(tmp_path)


@pytest.fixture
def fake() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def lines(store: ScheduleStore, fake: FakeLauncher, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the output lines of a daemon that runs during the test."""
    monkeypatch.setattr(daemon, "POLL_SECONDS", 0.05)
    messages: list[str] = []
    running = Daemon(Reconciler(store, lambda _: fake), messages.append)
    thread = Thread(target=running.run)
    thread.start()
    soon(lambda: (store.folder / daemon.LOCK).exists())
    yield messages
    running.stop()
    thread.join()


def soon(true: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_added_changed_and_removed_files_are_noticed(
    store: ScheduleStore, fake: FakeLauncher, lines: list[str]
) -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    store.add(nightly(store.root, cron="* * * * *", added=an_hour_ago))
    soon(lambda: fake.submitted)
    [(occurrence, _)] = fake.submitted
    soon(lambda: f"{occurrence}: running" in lines)
    assert lines[0].startswith("nightly: * * * * * UTC, next ")
    fake.states.clear()
    soon(lambda: f"{occurrence}: failed: its launcher has no record of it" in lines)
    (store.folder / "spoilt.yaml").write_text("cron: never\n")
    soon(lambda: any("spoilt.yaml: " in line for line in lines))
    store.remove("nightly")
    soon(lambda: "nightly: removed" in lines)
    assert sum("spoilt.yaml: " in line for line in lines) == 1


def test_a_second_daemon_is_refused(store: ScheduleStore, fake: FakeLauncher, lines: list[str]) -> None:
    with pytest.raises(UserError, match="another gen-ray schedule run is running these schedules"):
        Daemon(Reconciler(store, lambda _: fake), print).run()


def test_a_faulty_schedule_stops_no_other(store: ScheduleStore, fake: FakeLauncher, lines: list[str]) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    store.add(nightly(store.root, name="a", cron="* * * * *", added=past))
    (store.folder / "a.state.json").write_text("{")
    store.add(nightly(store.root, name="b", cron="* * * * *", added=past))
    soon(lambda: any(line.startswith("b-") and line.endswith(": running") for line in lines))
    assert any("a.state.json: " in line for line in lines)


def test_the_clock_may_be_set_while_it_runs(
    store: ScheduleStore, fake: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "POLL_SECONDS", 0.05)
    year = timedelta(days=365)
    clock = [datetime.now(UTC) + year]
    running = Daemon(Reconciler(store, lambda _: fake, lambda: clock[0]), print)
    thread = Thread(target=running.run)
    thread.start()
    try:
        store.add(nightly(store.root, cron="* * * * *", added=clock[0] - timedelta(minutes=2)))
        soon(lambda: len(fake.submitted) == 1)
        fake.end_all()
        clock[0] -= year
        soon(lambda: store.load_state(store.load("nightly")).after <= clock[0])
        clock[0] += timedelta(minutes=2)
        soon(lambda: len(fake.submitted) == 2)
    finally:
        running.stop()
        thread.join()


def test_sigterm_ends_daemon_and_sweeps_in_order(store: ScheduleStore, tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()  # shadows the real one in the folder where the sweep starts
    (tmp_path / "pipelines" / "__init__.py").touch()
    (tmp_path / "pipelines" / "sweep.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    store.add(nightly(tmp_path, cron="* * * * *", added=datetime.now(UTC) - timedelta(minutes=2)))
    command = [sys.executable, "-m", "pipelines.schedule", "run", "--storage", str(store.root)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    logs = store.folder / "logs"
    soon(lambda: any("here" in file.read_text() for file in logs.glob("*.log")))
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=30)
    assert running.returncode == 0 and output.splitlines()[-1] == "ended" and ": running" in output
    assert all(file.read_text().endswith("exit 143\n") for file in logs.glob("*.log"))
