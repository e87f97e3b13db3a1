"""Signals with which terminals and schedulers end a command."""

import os
import signal
import subprocess
import sys
import time

import pytest

from gen_ray.host import signals
from gen_ray.host.signals import NAMES, SIGNALS
from tests.conftest import ROOT

COMMAND = """
import os, sys, threading, time
from gen_ray.host import signals
from pipelines import terminal
signals.GRACE_SECONDS = 1.0

def orderly():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.3)  # a second signal must not disturb this
        print("in order", flush=True)

def stubborn():
    threading.Thread(target=time.sleep, args=(60,)).start()
    ready = False
    while True:
        try:
            ready = ready or print("ready", flush=True) or True
            time.sleep(60)
        except BaseException:
            pass

def lingering():
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("ready", flush=True)
    time.sleep(60)

class Large:
    def __del__(self, sleep=time.sleep):
        sleep(19)

def loaded():
    import atexit
    signals.GRACE_SECONDS = 60.0
    os.kept = Large()  # taken apart with its module
    atexit.register(print, "exit handlers called", flush=True)
    print("ready", flush=True)
    time.sleep(60)

VERBS = {"orderly": orderly, "stubborn": stubborn, "lingering": lingering, "loaded": loaded}
terminal.main(VERBS[sys.argv.pop(1)])
"""


def ended(how: str, *numbers: int, **options: object) -> tuple[int, str, str, float]:
    """Return exit code, stdout, stderr and seconds of a command that receives signals."""
    command = [sys.executable, "-c", COMMAND, how]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # nohup pytest ignores it
    with subprocess.Popen(command, cwd=ROOT, **pipes, **options) as process:  # type: ignore[call-overload]
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        began = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.1)
        out, err = process.communicate(timeout=20)
    return process.returncode, out, err, time.monotonic() - began


@pytest.mark.parametrize("number", sorted(SIGNALS), ids=lambda number: signal.Signals(number).name)
def test_every_ending_signal_ends_a_command_in_order(number: int) -> None:
    assert len(SIGNALS) == len(NAMES)
    code, out, err, _ = ended("orderly", number, number)
    name = {"SIGINT": "interrupted", "SIGTERM": "terminated"}.get(signal.Signals(number).name)
    assert (code, out) == (128 + number, "in order\n")
    assert err == f"error: {name or f'ended by {signal.Signals(number).name}'}\n"


@pytest.mark.parametrize("how", ["stubborn", "lingering"])
def test_a_command_that_cannot_end_in_order_is_killed(how: str) -> None:
    code, _, err, seconds = ended(how, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM and 0.9 < seconds < 10
    assert "SIGTERM: ended before everything was put in order" in err


def test_the_shutdown_of_the_interpreter_does_not_delay_the_end() -> None:
    """With torch and Ray loaded, this shutdown took 5 s on a busy machine."""
    code, out, err, seconds = ended("loaded", signal.SIGTERM)
    assert (code, out, err) == (143, "exit handlers called\n", "error: terminated\n") and seconds < 15


def test_a_command_under_nohup_survives_its_terminal() -> None:
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    code, _, err, _ = ended("orderly", signal.SIGHUP, signal.SIGTERM, **ignoring)
    assert code == 128 + signal.SIGTERM and "HUP" not in err


def test_a_verb_inside_another_one_leaves_its_files_and_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.end_in_order():
        file, handler = signals._clock.write, signal.getsignal(signal.SIGTERM)
        with signals.end_in_order():
            pass
        os.fstat(file)
        assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
