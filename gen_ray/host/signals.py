"""The signals by which terminals and clusters end a program, and the time that the program has for an orderly end."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gen_ray.errors import EndedError

NAMES = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGPWR")
"""Sent by a closed terminal, Ctrl-C, Ctrl-\\, most job schedulers, Slurm, LSF and SGE as warnings, a CPU limit, and
containers."""
SIGNALS = frozenset(getattr(signal, name) for name in NAMES if hasattr(signal, name))
GRACE_SECONDS = 9.0
"""After this time the process ends unconditionally, because job schedulers kill it a little later."""


class _Clock:
    """Timer that ends the process GRACE_SECONDS after the first signal of SIGNALS, even if the main thread hangs.

    Python runs signal handlers in the main thread between two of its instructions. This thread may be inside a library
    call that does not return. Therefore another thread reads the signals' numbers from the wake-up file.
    """

    def __init__(self) -> None:
        self.heard = self.seen = self.write = self.code = 0
        self.is_patient = self.is_running = False

    @property
    def has_heard(self) -> bool:
        """Return whether a signal was received, by the handler or by the thread."""
        return bool(self.heard or self.seen)

    def start(self) -> None:
        """Start to watch the signals of this process."""
        self.heard = self.seen = self.code = 0
        self.is_patient, self.is_running = False, True
        atexit.unregister(self._leave)
        atexit.register(self._leave)  # before those of libraries, and so called after them
        read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.before = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), name="ending", daemon=True).start()

    def stop(self) -> None:
        """Stop watching, unless a signal was received, because a thread may still prevent the end of the process."""
        self.is_running = False
        if not self.has_heard:
            signal.set_wakeup_fd(self.before)
            os.close(self.write)

    def _watch(self, read: int) -> None:
        while numbers := os.read(read, 64):
            self.seen = self.seen or next((number for number in numbers if number in SIGNALS), 0)
            if self.seen:
                time.sleep(GRACE_SECONDS)
                if not self.is_patient:
                    self._end(self.seen)
        os.close(read)

    def _leave(self) -> None:
        if self.code:
            os._exit(self.code)

    def _end(self, number: int) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"error: {signal.Signals(number).name}: ended before everything was put in order\n")
            sys.stderr.flush()
        os._exit(128 + number)


_clock = _Clock()


@contextmanager
def end_in_order() -> Iterator[None]:
    """Raise EndedError in the block at the first signal of SIGNALS, or KeyboardInterrupt at SIGINT.

    The process ends at most GRACE_SECONDS later. Further signals are ignored, because e.g. timeout(1) sends its signal
    twice. A process that was started by nohup keeps ignoring SIGHUP.
    """
    if _clock.is_running or threading.current_thread() is not threading.main_thread():
        yield  # a command inside another one does not handle the signals
        return
    before = {number: signal.signal(number, _raise) for number in _answered()}
    _clock.start()
    try:
        yield
    finally:
        _clock.stop()
        if not _clock.has_heard:
            for number, handler in before.items():
                signal.signal(number, handler)


def lift_time_limit() -> None:
    """Remove the time limit for the end of the process, which first answers its waiting clients."""
    _clock.is_patient = True


def exit_process(code: int) -> None:
    """Let a process that received a signal end with an exit code right after its exit handlers.

    This skips Python's finalisation, which takes 5 s with torch and Ray on a busy machine, without the thread that
    limits the time.
    """
    if _clock.has_heard:
        _clock.code = code


def wait() -> None:
    """Wait for the first signal of SIGNALS. There is no time limit for the end of the process after it."""
    lift_time_limit()
    heard = threading.Event()
    for number in _answered():
        signal.signal(number, lambda *_: heard.set())
    heard.wait()


def _answered() -> set[int]:
    hangup = getattr(signal, "SIGHUP", 0)
    return {number for number in SIGNALS if number != hangup or signal.getsignal(number) is not signal.SIG_IGN}


def _raise(number: int, _: object) -> None:
    if _clock.heard:
        return
    _clock.heard = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise ended_error(number)


def ended_error(number: int) -> EndedError:
    """Return the exception of a signal, with the exit code that shells use for it."""
    name = signal.Signals(number).name
    return EndedError("terminated" if name == "SIGTERM" else f"ended by {name}", 128 + number)
