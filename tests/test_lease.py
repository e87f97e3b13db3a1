"""The lease of a run folder, which lets one process at a time work in it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from gen_ray.errors import RunError, UserError
from gen_ray.storage import conditional_write, lease
from tests.conftest import ROOT

HOLDER = """
import sys, time
from gen_ray.storage import lease, paths
lease.HEARTBEAT_SECONDS = 0.2
try:
    with lease.acquire(paths.resolve(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
except lease.RunError as error:
    print(error, flush=True)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT_SECONDS", 0.2), ("SILENT_SECONDS", 1.5), ("POLL_SECONDS", 0.1)):
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture(params=["folder", "s3"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "folder":
        return tmp_path
    bucket: Path = request.getfixturevalue("s3")
    return bucket / tmp_path.name


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["foreground", "background"])
def holder(home: Path, request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lease, started by a shell, whose background processes ignore SIGINT."""
    command = [sys.executable, "-c", HOLDER, str(home)]
    start = partial(signal.signal, signal.SIGINT, request.param)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=start) as it:
        assert it.stdout is not None and it.stdout.readline() == "held\n"
        yield it
        it.kill()


def test_a_live_lease_is_refused_with_the_name_of_its_owner(home: Path, holder: "subprocess.Popen[str]") -> None:
    words = rf"in use by \S+@\S+ \(pid {holder.pid}\) for \d+ s, last heartbeat \d+ s ago; .*`take_over`"
    with pytest.raises(UserError, match=words), lease.acquire(home):
        pytest.fail("held by two processes")
    holder.kill()
    holder.wait()
    with lease.acquire(home) as mine:
        assert not mine.lost
    found = lease._read(home / lease.NAME)
    assert found is not None and found.ended


def test_take_over_ends_the_owner_first(home: Path, holder: "subprocess.Popen[str]") -> None:
    with lease.acquire(home, take_over=True):
        assert holder.stdout is not None
        assert "taken over by" in holder.stdout.read() and holder.wait(10) == 0


def test_a_lease_that_a_full_disk_keeps_does_not_refuse_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "disk full")

    with monkeypatch.context() as disk, lease.acquire(tmp_path):
        disk.setattr(lease.conditional_write, "replace", full)
    assert '"ended": false' in (tmp_path / lease.NAME).read_text(encoding="utf-8")
    with lease.acquire(tmp_path), pytest.raises(UserError, match="in use by"), lease.acquire(tmp_path):
        pass


def test_of_many_simultaneous_starts_one_gets_the_lease(home: Path) -> None:
    def attempt(_: int) -> bool:
        try:
            lease.Lease(home / lease.NAME, lease._claim(home, take_over=False)).over.set()
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


@pytest.mark.parametrize("is_alive", [True, False])
def test_an_owner_on_another_machine_is_alive_while_its_file_changes(is_alive: bool, tmp_path: Path) -> None:
    """Its clock does not matter."""
    file, over = tmp_path / lease.NAME, threading.Event()
    elsewhere = replace(lease.Owner.this(), machine="another", host="gpu7", heartbeat=1e12)
    file.write_text(elsewhere.text())

    def beat() -> None:
        while not over.wait(0.2):
            text = conditional_write.read(file)
            conditional_write.replace(file, text, replace(elsewhere, heartbeat=time.time()).text())

    if is_alive:
        threading.Thread(target=beat, daemon=True).start()
        with pytest.raises(UserError, match="gpu7"), lease.acquire(tmp_path):
            pytest.fail("held by two processes")
        over.set()
        return
    with lease.acquire(tmp_path) as mine:
        assert mine.owner.host != "gpu7"


def test_an_owner_that_lost_its_lease_is_interrupted(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(RunError, match=r"taken over by .*@gpu7"), lease.acquire(tmp_path) as mine:
            lost(mine)
    finally:
        signal.signal(signal.SIGINT, before)


def lost(mine: lease.Lease) -> None:
    """Let another process write its own lease, as after a pause of this one."""
    mine.file.write_text(replace(lease.Owner.this(), host="gpu7").text())
    time.sleep(10)


def changed(**fields: object) -> bytes:
    """Return the content of a lease file of this machine with changed fields."""
    return json.dumps({**asdict(replace(lease.Owner.this(), machine="another")), **fields}).encode()


DAMAGED = [
    *(b"", b"\xff\xfe", b"[]", b"null", b"{", b"[" * 100_000, changed(pid="x"), changed(pid=-5), changed(pid=2**70)),
    *(changed(process_start=None), changed(heartbeat=None), changed(heartbeat=float("nan")), changed(start=1e300)),
    *(changed(user=[1]), changed(host="\udc80"), changed(ended="no")),
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_lease_is_replaced_with_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / lease.NAME
    file.write_bytes(content)
    with lease.acquire(tmp_path) as mine:
        assert f"{file}: is damaged" in caplog.text
        file.write_bytes(content)  # also while it is held, by the next heartbeat
        mine._beat()
        found = lease._read(file)
        assert found is not None and found.token == mine.owner.token and not mine.lost


def test_a_lease_of_a_later_version_is_respected(tmp_path: Path) -> None:
    parent = psutil.Process(os.getppid())
    owner = replace(lease.Owner.this(), pid=parent.pid, process_start=parent.create_time())
    (tmp_path / lease.NAME).write_text(json.dumps({**asdict(owner), "color": "red"}))
    with pytest.raises(UserError, match="in use by"), lease.acquire(tmp_path):
        pytest.fail("held by two processes")


def test_a_lease_on_an_object_store_is_read_while_it_is_replaced(s3: Path, tmp_path: Path) -> None:
    file, over = s3 / tmp_path.name / "a.json", threading.Event()
    file.write_text("0")

    def write() -> None:
        while not over.is_set():
            file.write_text(str(time.time_ns()))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert all(conditional_write.read(file) for _ in range(15))
    finally:
        over.set()
        thread.join()


def test_a_folder_in_the_place_of_a_lease_is_named(tmp_path: Path) -> None:
    (tmp_path / lease.NAME).mkdir()
    with pytest.raises(UserError, match=r"lease\.json: is a folder; remove it"), lease.acquire(tmp_path):
        pytest.fail("held without a file")


def test_no_error_ends_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise ValueError("a client's own kind of error")

    with lease.acquire(tmp_path) as mine:
        with monkeypatch.context() as broken:
            broken.setattr(lease.conditional_write, "replace", fail)
            time.sleep(3 * lease.HEARTBEAT_SECONDS)
        before = mine.owner.heartbeat
        time.sleep(3 * lease.HEARTBEAT_SECONDS)
        assert mine.owner.heartbeat > before


def test_a_conditional_write_needs_the_content_that_was_read(home: Path) -> None:
    file = home / "a.json"
    assert not conditional_write.replace(file, "nothing", "x") and conditional_write.read(file) is None
    assert conditional_write.replace(file, None, "1") and not conditional_write.replace(file, None, "2")
    assert not conditional_write.replace(file, "0", "2") and conditional_write.read(file) == "1"
    assert conditional_write.replace(file, "1", "2") and conditional_write.read(file) == "2"
