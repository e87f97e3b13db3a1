"""The daemon by APScheduler's clock: it takes up what is added, drops what is removed, and is the only one."""

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
from gen_ray.schedules import daemon
from gen_ray.schedules.book import Book
from gen_ray.schedules.cron import Cron
from gen_ray.schedules.daemon import Daemon, OnTime
from gen_ray.schedules.keeper import Keeper
from tests.conftest import ROOT
from tests.schedules.night import Paper, nightly


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def lines(book: Book, paper: Paper, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return what a daemon says that runs for as long as the test."""
    monkeypatch.setattr(daemon, "LOOK_SECONDS", 0.05)
    told: list[str] = []
    running = Daemon(Keeper(book, lambda _: paper), told.append)
    thread = Thread(target=running.run)
    thread.start()
    soon(lambda: running.scheduler.running)
    yield told
    running.scheduler.shutdown()
    thread.join()


def soon(true: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_files_that_come_change_and_go_are_noticed(book: Book, paper: Paper, lines: list[str]) -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    book.add(nightly(book.root, cron="* * * * *", added=an_hour_ago))
    soon(lambda: paper.asked)
    [(occurrence, _)] = paper.asked
    soon(lambda: f"{occurrence}: running" in lines)
    assert lines[0].startswith("nightly: * * * * * UTC, next ")
    paper.states.clear()
    soon(lambda: f"{occurrence}: failed: nothing is known of it any more" in lines)
    (book.folder / "spoilt.yaml").write_text("cron: never\n")
    soon(lambda: any("spoilt.yaml: " in line for line in lines))
    book.remove("nightly")
    soon(lambda: "nightly: removed" in lines)
    assert sum("spoilt.yaml: " in line for line in lines) == 1


def test_a_second_daemon_is_refused(book: Book, paper: Paper, lines: list[str]) -> None:
    with pytest.raises(UserError, match="another gen-ray schedule run keeps these schedules"):
        Daemon(Keeper(book, lambda _: paper), print).run()


def test_what_has_passed_is_fired_for_no_more() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    fired = OnTime(Cron("0 2 * * *", "UTC")).get_next_fire_time(now - timedelta(days=30), now)
    assert fired == datetime(2026, 11, 24, 2, tzinfo=UTC)


def test_sigterm_ends_daemon_and_sweeps_in_order(book: Book, tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()  # stands before the real one, in the folder that the sweep is started in
    (tmp_path / "pipelines" / "__init__.py").touch()
    (tmp_path / "pipelines" / "sweep.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    book.add(nightly(tmp_path, cron="* * * * *", added=datetime.now(UTC) - timedelta(minutes=2)))
    command = [sys.executable, "-m", "pipelines.schedule", "run", "--storage", str(book.root)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    logs = book.folder / "logs"
    soon(lambda: any("here" in file.read_text() for file in logs.glob("*.log")))
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == 0 and said.splitlines()[-1] == "ended" and ": running" in said
    assert all(file.read_text().endswith("exit 143\n") for file in logs.glob("*.log"))
