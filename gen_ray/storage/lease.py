"""A lease: a file that lets one process at a time work in the folder of a run or sweep.

The file names the owner and is rewritten every few seconds. An owner on this machine is alive while its process runs.
An owner on another machine is alive while its file changes, so that differences between clocks do not matter.
"""

import getpass
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Self
from uuid import uuid4

import psutil
from pydantic import ConfigDict, Field, TypeAdapter

from gen_ray.errors import RunError, UserError, argument
from gen_ray.host import process
from gen_ray.storage import conditional_write

NAME = "lease.json"
HEARTBEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""Time without a change of the file after which an owner on another machine is dead."""
HANDOVER_SECONDS = 30.0
"""Time that take_over gives the present owner to save a checkpoint and end."""
POLL_SECONDS = 0.5
Time = Annotated[float, Field(ge=0, lt=1e15)]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The content of a lease; times are seconds since 1970."""

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")  # for reading the file

    token: str
    user: str
    host: str
    machine: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    process_start: Time
    start: Time
    heartbeat: Time
    claimed_by: str = ""
    """Name of the process that requested the lease by take_over."""
    ended: bool = False

    @classmethod
    def this(cls) -> Self:
        """Return this process as an owner."""
        return cls(
            token=uuid4().hex,
            user=_user(),
            host=socket.gethostname(),
            machine=process.machine(),
            pid=os.getpid(),
            process_start=psutil.Process().create_time(),
            start=time.time(),
            heartbeat=time.time(),
        )

    @property
    def name(self) -> str:
        """Return the owner as text: user, host and process id."""
        return f"{self.user}@{self.host} (pid {self.pid})"

    @property
    def age(self) -> str:
        """Return the ages of the lease and of its heartbeat as text, by this machine's clock."""
        age, silence = (max(0.0, time.time() - since) for since in (self.start, self.heartbeat))
        return f"for {_duration(age)}, last heartbeat {_duration(silence)} ago"

    def text(self) -> str:
        """Return the file's content."""
        return json.dumps(asdict(self), indent=1)


_FILE = TypeAdapter(Owner)
"""The schema of the file of a lease. Unknown fields of later versions are ignored."""
_own_tokens: set[str] = set()
"""Tokens of the leases that this process holds."""


class Lease:
    """A lease that this process holds. Its thread renews the file; ``lost`` names the process that has taken over."""

    def __init__(self, file: Path, owner: Owner) -> None:
        self.file, self.owner, self.lost = file, owner, ""
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.thread.start()

    def release(self) -> None:
        """End the lease, and mark it as ended in the file."""
        self.over.set()
        self.thread.join()
        _own_tokens.discard(self.owner.token)  # also where the file cannot be written: on a full disk
        with suppress(OSError):
            found = _read(self.file)
            if found and found.token == self.owner.token:
                conditional_write.replace(self.file, found.text(), replace(found, ended=True).text())

    def _renew(self) -> None:
        while not self.over.wait(HEARTBEAT_SECONDS) and not self.lost:
            try:
                self._beat()
            except OSError:  # the storage is unavailable; the next heartbeat tries again
                continue
            except Exception:  # without this thread, the lease of a running process would expire
                logger.exception("%s: could not be renewed; the next heartbeat tries again", self.file)
        if self.lost and not self.over.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _beat(self) -> None:
        now = replace(self.owner, heartbeat=time.time())
        if conditional_write.replace(self.file, self.owner.text(), now.text()):
            self.owner = now
            return
        text = conditional_write.read(self.file)
        found = _parsed(text)
        if found is None:  # removed by hand, or damaged
            conditional_write.replace(self.file, text, now.text())
            self.owner = now
        elif found.token != self.owner.token:
            self.lost = found.name
        elif found.claimed_by:
            self.lost = found.claimed_by
        else:  # written by a heartbeat whose response was lost
            self.owner = found


@contextmanager
def acquire(folder: Path, *, take_over: bool = False) -> Iterator[Lease]:
    """Hold the lease of a folder while the block runs. Raise UserError with the process that holds it already.

    With take_over that process is requested to end, and this one waits for it. If another process takes the lease over
    from this one, its main thread gets SIGINT, and the block ends with RunError.
    """
    lease = Lease(folder / NAME, _claim(folder, take_over=take_over))
    try:
        with _interruptible(lease):
            yield lease
    except BaseException as error:  # KeyboardInterrupt and EndedError too
        if lease.lost:
            message = f"{folder.name}: taken over by {lease.lost}, which goes on from the last checkpoint"
            raise RunError(message, reason="taken_over") from error
        raise
    finally:
        lease.release()


@contextmanager
def _interruptible(lease: Lease) -> Iterator[None]:
    """Let the lease interrupt a process that ignores SIGINT, as background processes of a shell do, but not Ctrl-C."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return

    def interrupt(*_: object) -> None:
        if lease.lost:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _claim(folder: Path, *, take_over: bool) -> Owner:
    file, mine = folder / NAME, Owner.this()
    while True:
        text = _text(file)
        before = _parsed(text)
        if text is not None and before is None:
            logger.warning("%s: is damaged and does not name a process; it is replaced", file)
        if before and not before.ended and _is_live(file, before):
            if not take_over:
                raise UserError(
                    f"{folder.name}: in use by {before.name} {before.age}; "
                    f"wait until that process has ended, or end it with {argument('take_over')}"
                )
            _hand_over(file, before, mine)
            text = conditional_write.read(file)
        _own_tokens.add(mine.token)  # before any thread can read it
        if conditional_write.replace(file, text, mine.text()):
            return mine
        _own_tokens.discard(mine.token)


def _is_live(file: Path, owner: Owner) -> bool:
    """Return whether the owner's process runs. On another machine this waits for a heartbeat."""
    if owner.machine == process.machine():
        if owner.pid == os.getpid():
            return owner.token in _own_tokens
        return process.is_alive(owner.pid, owner.process_start)
    logger.warning("%s: was used by %s; waiting %.0f s for a heartbeat", file.parent.name, owner.name, SILENT_SECONDS)
    return _changes(file, owner, SILENT_SECONDS)


def _changes(file: Path, owner: Owner, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if _read(file) != owner:
            return True
        time.sleep(POLL_SECONDS)
    return False


def _hand_over(file: Path, owner: Owner, mine: Owner) -> None:
    """Request the lease from the owner, and wait until the owner has ended, at most HANDOVER_SECONDS."""
    logger.warning("%s: waiting for %s to end", file.parent.name, owner.name)
    until, is_this_machine = time.monotonic() + HANDOVER_SECONDS, owner.machine == process.machine()
    while time.monotonic() < until:
        found = _read(file)
        if found is None or found.ended or found.token != owner.token:
            return
        if not found.claimed_by:
            conditional_write.replace(file, found.text(), replace(found, claimed_by=mine.name).text())
        elif is_this_machine and not process.is_alive(owner.pid, owner.process_start):
            return
        time.sleep(POLL_SECONDS)


def _read(file: Path) -> Owner | None:
    return _parsed(conditional_write.read(file))


def _text(file: Path) -> str | None:
    """Return the text of a lease, or None. Raise UserError if a folder has the name of the file."""
    try:
        return conditional_write.read(file)
    except IsADirectoryError:
        raise UserError(f"{file}: is a folder; remove it, because a file of this name has to be written") from None


def _parsed(text: str | None) -> Owner | None:
    """Return the owner in the text of a lease, or None if there is no text or it is not a lease."""
    try:
        return _FILE.validate_json(text) if text else None
    except ValueError:  # pydantic's errors too
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        return str(os.getuid())


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
