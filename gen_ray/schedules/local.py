"""Occurrences as processes of this machine, each with its output in a log file."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from gen_ray.errors import RunError
from gen_ray.schedules.launcher import State

END_SECONDS = 30.0
"""What a sweep is given to end in order; Ray alone takes some seconds."""
TAIL_BYTES = 10_000
SHELL = '"$@"; echo "exit $?"'
"""How a process ended is the log's last line: whoever reads it need not be the one who started it."""


class Local:
    """Child processes. A log is locked as long as its process lives: no pid that another may have taken since.

    The lock is the file's as the process has it open, so it outlives a daemon that dies, and ends with the process.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the logs in folder."""
        self.folder = folder
        self.children: list[subprocess.Popen[bytes]] = []

    def log(self, occurrence: str) -> Path:
        """Return the file of the output."""
        return self.folder / f"{occurrence}.log"

    def launch(self, occurrence: str, words: Sequence[str], folder: Path) -> None:
        """Start a process of its own session: a Ctrl-C in the daemon's terminal must reach it in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            log = self.log(occurrence).open("xb")
        except FileExistsError:
            return
        with log:
            fcntl.flock(log, fcntl.LOCK_EX)
            command = ["sh", "-c", SHELL, "sh", sys.executable, *words]
            try:
                child = subprocess.Popen(
                    command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise RunError(f"{folder}: {error.strerror}") from None
        self.children.append(child)

    def state(self, occurrence: str) -> State | None:
        """Return what lock and last line say."""
        file = self.log(occurrence)
        if not file.exists():
            return None
        with file.open("rb") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return State("running")
            log.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return _ended(lines, file)

    def close(self) -> None:
        """End the processes and return when they have ended."""
        for child in self.children:
            if child.poll() is None:
                for process in psutil.Process(child.pid).children():  # the shell itself stays, to say how that ended
                    process.terminate()
        for child in self.children:
            try:
                child.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _ended(lines: list[str], file: Path) -> State:
    last = lines.pop() if lines else ""
    if not last.startswith("exit "):
        return State("failed", f"its process was killed ({file})", 1)
    code = int(last.removeprefix("exit "))
    if code == 0:
        return State("done")
    said = next((line for line in reversed(lines) if line.startswith("error: ")), str(file))
    return State("failed", f"exit {code}, {said}", code)
