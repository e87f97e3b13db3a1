"""The launcher of occurrences as processes of this machine, each with its output in a log file."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from gen_ray.errors import RunError
from gen_ray.recurring.launcher import OccurrenceState, later

END_SECONDS = 30.0
"""Time for a sweep to end in order. Ray needs some seconds of it."""
TAIL_BYTES = 10_000
SHELL = 'echo "$$ $1" >"$0"; shift; "$@"; code=$?; rm -f "$0"; echo "exit $code"'
"""The last line of the log is the exit code, so that a process that did not start the shell can read it."""
PID = ".pid"
"""Suffix of the file that holds the process ids of the shell and of its starter while the shell runs."""
AHEAD = ".clock-was-ahead"


class LocalLauncher:
    """A launcher of child processes. A log is locked while its process runs; process ids may be reused.

    The lock belongs to the open file of the process. It outlives a daemon that dies, and ends with the process.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder for the logs."""
        self.folder = folder
        self.shells: list[psutil.Process] = []

    def log(self, occurrence: str) -> Path:
        """Return the log file of an occurrence."""
        return self.folder / f"{occurrence}.log"

    def launch(self, occurrence: str, words: Sequence[str], folder: Path) -> None:
        """Start a process in a new session, because Ctrl-C in the daemon's terminal must not reach it directly."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            log = self.log(occurrence).open("xb")
        except FileExistsError:
            return
        except OSError as error:
            raise RunError(f"{self.log(occurrence)}: {error.strerror}") from None
        with log:
            fcntl.flock(log, fcntl.LOCK_EX)
            command = ["sh", "-c", SHELL, str(self._pid_file(occurrence)), str(os.getpid()), sys.executable, *words]
            try:
                child = psutil.Popen(
                    command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise RunError(f"{folder}: {error.strerror}") from None
        self.shells.append(child)

    def state(self, occurrence: str) -> OccurrenceState | None:
        """Return the state by the lock and the last line of the log."""
        file = self.log(occurrence)
        if not file.exists():
            return None
        if _is_locked(file):
            return OccurrenceState("running")
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return _ended(lines, file)

    def adopt(self) -> Iterator[str]:
        """Yield the running occurrences whose starter was killed. ``close`` ends these too."""
        for file in sorted(self.folder.glob(f".*{PID}")):
            occurrence = file.name[1:].removesuffix(PID)
            if not _is_locked(self.log(occurrence)):
                file.unlink(missing_ok=True)
                continue
            shell = _orphan(file)
            if shell is not None:
                self.shells.append(shell)
                yield occurrence

    def free_ids(self, schedule: str, after: str) -> None:
        """Rename the logs of occurrences that ran while the clock was ahead."""
        for occurrence in later([file.stem for file in self.folder.glob("*.log")], schedule, after):
            if not _is_locked(self.log(occurrence)):
                self.log(occurrence).replace(self.log(occurrence + AHEAD))

    def close(self) -> None:
        """Terminate the processes, and wait until they have ended."""
        running = [shell for shell in self.shells if shell.is_running()]
        for shell in running:
            with suppress(psutil.NoSuchProcess):
                for process in shell.children():  # not the shell, which writes the exit code
                    process.terminate()
        _, left = psutil.wait_procs(running, END_SECONDS)
        for shell in left:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()

    def _pid_file(self, occurrence: str) -> Path:
        return self.folder.absolute() / f".{occurrence}{PID}"


def _is_locked(log: Path) -> bool:
    """Return whether the process that writes a log runs."""
    try:
        with log.open("rb") as found:
            fcntl.flock(found, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _orphan(file: Path) -> psutil.Process | None:
    """Return the shell of a process id file if its parent is no longer its starter, else None."""
    try:
        pid, starter = map(int, file.read_text(encoding="utf-8").split())
        shell = psutil.Process(pid)
        return shell if shell.ppid() != starter and str(file) in shell.cmdline() else None
    except (OSError, ValueError, psutil.Error):  # the shell has just ended, or its id was reused
        return None


def _ended(lines: list[str], file: Path) -> OccurrenceState:
    last = lines.pop() if lines else ""
    if not last.startswith("exit "):
        return OccurrenceState("failed", f"its process was killed ({file})", 1)
    code = int(last.removeprefix("exit "))
    if code == 0:
        return OccurrenceState("done")
    reason = next((line for line in reversed(lines) if line.startswith("error: ")), str(file))
    return OccurrenceState("failed", f"exit {code}, {reason}", code)
