"""Identification of processes, so that other processes can find out later whether they still run."""

import os
import re
import socket
from pathlib import Path

import psutil

CLOCK_SECONDS = 5  # tolerance, because clock corrections change the start times of all processes a little


def this_process() -> str:
    """Return ``host:pid:start`` of this process. The start time is needed because process ids are reused."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_gone(process: str) -> bool:
    """Return whether a process of this host has ended. False for other hosts, and for a text of another form."""
    host, _, rest = process.partition(":") if process.count(":") == 2 else ("", "", "")
    if host != socket.gethostname() or not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,12}(\.[0-9]{1,9})?", rest):
        return False
    pid, _, started = rest.partition(":")
    return not is_alive(int(pid), float(started))


def is_alive(pid: int, started: float) -> bool:
    """Return whether the process of this machine with this pid and start time still runs."""
    try:
        found = psutil.Process(pid)
        return abs(found.create_time() - started) <= CLOCK_SECONDS and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it runs, and access to it is denied
        return True


def machine() -> str:
    """Return an id of the machine and its namespace of process ids, which differ between containers on one host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return f"{socket.gethostname()}:{psutil.boot_time():.0f}"
