"""Occurrences as local processes: their ends are recorded for other processes, and closing ends all of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gen_ray.errors import RunError
from gen_ray.recurring.launcher import OccurrenceState
from gen_ray.recurring.local_launcher import LocalLauncher

FAILS = ["-c", "import sys; print('error: no luck', file=sys.stderr); sys.exit(2)"]
WAITS = ["-c", "import time; print('here', flush=True); time.sleep(60)"]


def ended(local: LocalLauncher, occurrence: str) -> OccurrenceState:
    until = time.monotonic() + 30
    while (state := local.state(occurrence)) is not None and state.word == "running":
        assert time.monotonic() < until
        time.sleep(0.02)
    assert state is not None
    return state


def wait_for_output(local: LocalLauncher, occurrence: str) -> None:
    while "here" not in local.log(occurrence).read_text():
        time.sleep(0.02)


def test_how_a_process_ended_is_known_to_others(tmp_path: Path) -> None:
    local, other = LocalLauncher(tmp_path), LocalLauncher(tmp_path)
    assert local.state("a-1") is None
    local.launch("a-1", ["-c", "print('well')"], tmp_path)
    local.launch("a-2", FAILS, tmp_path)
    assert ended(other, "a-1") == OccurrenceState("done") and ended(other, "a-2") == OccurrenceState(
        "failed", "exit 2, error: no luck", 2
    )
    assert local.log("a-1").read_text() == "well\nexit 0\n"


def test_an_id_is_launched_once(tmp_path: Path) -> None:
    local = LocalLauncher(tmp_path)
    count = ["-c", "open('runs', 'a').write('x')"]
    local.launch("a-1", count, tmp_path)
    LocalLauncher(tmp_path).launch("a-1", count, tmp_path)
    ended(local, "a-1")
    local.launch("a-1", count, tmp_path)
    assert len(local.shells) == 1 and (tmp_path / "runs").read_text() == "x"


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    local = LocalLauncher(tmp_path)
    with pytest.raises(RunError, match="nowhere: No such file"):
        local.launch("a-1", FAILS, tmp_path / "nowhere")
    assert ended(local, "a-1").word == "failed"


def test_closing_ends_running_occurrences_in_order(tmp_path: Path) -> None:
    local = LocalLauncher(tmp_path)
    local.launch("a-1", WAITS, tmp_path)
    wait_for_output(local, "a-1")
    assert local.state("a-1") == OccurrenceState("running")
    local.close()
    assert ended(local, "a-1").code == 128 + signal.SIGTERM


START = """
import sys, time
from pathlib import Path
from gen_ray.recurring.local_launcher import LocalLauncher
LocalLauncher(Path(sys.argv[1])).launch("a-1", ["-c", sys.argv[2]], Path(sys.argv[1]))
time.sleep(60)
"""


def test_processes_of_a_killed_launcher_are_adopted_and_ended_in_order(tmp_path: Path) -> None:
    starter, local = subprocess.Popen([sys.executable, "-c", START, str(tmp_path), WAITS[1]]), LocalLauncher(tmp_path)
    while not local.log("a-1").exists():
        time.sleep(0.02)
    wait_for_output(local, "a-1")
    local.launch("b-1", WAITS, tmp_path)
    wait_for_output(local, "b-1")
    assert list(LocalLauncher(tmp_path).adopt()) == [], "both have a launcher that is alive"
    starter.kill()
    starter.wait()
    (tmp_path / ".c-1.pid").write_text(f"{os.getpid()} 1")
    other = LocalLauncher(tmp_path)
    assert list(other.adopt()) == ["a-1"] and other.state("a-1") == OccurrenceState("running")
    other.close()
    assert ended(other, "a-1").code == 128 + signal.SIGTERM and local.state("b-1") == OccurrenceState("running")
    local.close()
    assert not list(tmp_path.glob(".*")), "the files with ids are removed with the processes"


def test_ids_of_a_clock_that_was_ahead_are_not_reserved(tmp_path: Path) -> None:
    local = LocalLauncher(tmp_path)
    past, due, other = "a-20261123T020000Z", "a-20261124T020000Z", "a-b-20261124T020000Z"
    for occurrence in (past, due, other):
        local.launch(occurrence, ["-c", "pass"], tmp_path)
        ended(local, occurrence)
    local.free_ids("a", "a-20261123T120000Z")
    assert local.state(due) is None and local.state(past) == local.state(other) == OccurrenceState("done")


def test_a_process_survives_its_killed_launcher_and_is_found_running_then_killed(tmp_path: Path) -> None:
    start = f"""
import time
from pathlib import Path
from gen_ray.recurring.local_launcher import LocalLauncher
LocalLauncher(Path({str(tmp_path)!r})).launch("a-1", {WAITS!r}, Path({str(tmp_path)!r}))
time.sleep(60)
"""
    starter, local = subprocess.Popen([sys.executable, "-c", start]), LocalLauncher(tmp_path)
    while not local.log("a-1").exists():
        time.sleep(0.02)
    wait_for_output(local, "a-1")
    shell = psutil.Process(starter.pid).children()[0]
    [child] = shell.children()
    starter.kill()
    starter.wait()
    assert local.state("a-1") == OccurrenceState("running")
    for process in (shell, child):
        os.kill(process.pid, signal.SIGKILL)
    state = ended(local, "a-1")
    assert (state.word, state.code) == ("failed", 1) and "was killed" in state.note
