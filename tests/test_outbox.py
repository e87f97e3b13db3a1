"""The outbox: messages to MLflow are delivered in order and exactly once, also after an outage."""

import errno
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from gen_ray.errors import RunError
from gen_ray.tracking import spool
from gen_ray.tracking.outbox import Outbox
from gen_ray.tracking.runs import REFUSED, this_process
from gen_ray.tracking.store import Store

Caplog = pytest.LogCaptureFixture
STORE = Store("sqlite:///nowhere.db", "x")


class Ledger:
    """A fake store that can be unavailable, or refuse a name."""

    def __init__(self) -> None:
        self.reachable, self.sent = threading.Event(), list[tuple[str, str, dict[str, Any]]]()
        self.batches = list[int]()
        self.reachable.set()

    def __call__(self, store: Store, run_id: str, **how: Any) -> "Entry":
        self.admit(run_id, "open", **how)
        return Entry(self, run_id)

    def admit(self, run_id: str, verb: str, **args: Any) -> None:
        if not self.reachable.is_set():
            raise RunError("away", reason="tracking")
        if args.get("step") == -1:
            raise RunError("no such step", reason=REFUSED)
        self.sent.append((run_id, verb, args))


class Entry:
    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self.ledger, self.run_id = ledger, run_id

    def log_points(self, points: list[Any]) -> None:
        if not self.ledger.reachable.is_set():
            raise RunError("away", reason="tracking")
        if len(points) > 1 and any(step == -1 for _, step, _ in points):
            raise RunError("no such step", reason=REFUSED)
        self.ledger.batches.append(sum(len(metrics) for metrics, _, _ in points))
        for metrics, step, at in points:
            self.ledger.admit(self.run_id, "log", metrics=metrics, step=step, at=at)

    def __getattr__(self, verb: str) -> Any:
        return lambda **args: self.ledger.admit(self.run_id, verb, **args)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_ray.tracking.outbox.RETRY_SECONDS", 0.02)


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_store_that_is_away_delays_messages_and_loses_none(ledger: Ledger, tmp_path: Path) -> None:
    outbox = Outbox(STORE, tmp_path, ledger)
    outbox.put("a", "open", name="a", params={}, tags={})
    until(lambda: outbox.pending("a") == (0, ""))
    ledger.reachable.clear()
    began = time.monotonic()
    for step in range(100):
        outbox.put("a", "log", metrics={"loss": 1.0}, step=step, at=step)
    assert time.monotonic() - began < 0.5, "logging does not wait for the store"
    until(lambda: outbox.pending("a") == (100, "away"))
    ledger.reachable.set()
    until(lambda: outbox.pending("a") == (0, ""))
    assert [args["step"] for _, verb, args in ledger.sent if verb == "log"] == list(range(100))
    assert not list(tmp_path.iterdir())


def test_permanently_refused_messages_do_not_delay_the_others(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(STORE, tmp_path, ledger)
    outbox.put("a", "open", name="a", params={}, tags={})
    ledger.reachable.clear()
    for step in (1, 2, -1, 4):
        outbox.put("a", "log", metrics={}, step=step, at=0)
    ledger.reachable.set()
    until(lambda: outbox.pending("a") == (0, ""))
    assert [args["step"] for _, verb, args in ledger.sent if verb == "log"] == [1, 2, 4]
    assert "a: no such step" in caplog.text


def test_metrics_of_a_run_are_sent_together_and_in_order(ledger: Ledger, tmp_path: Path) -> None:
    outbox = Outbox(STORE, tmp_path, ledger)
    ledger.reachable.clear()
    for run in "ab":
        outbox.put(run, "open", name=run, params={}, tags={})
    for step in range(600):
        outbox.put("ab"[step % 2], "log", metrics={"x": 0.0, "y": 1.0, "z": 2.0, "w": 3.0}, step=step, at=step)
    outbox.put("a", "set_tags", tags={"k": "v"})
    outbox.put("a", "log", metrics={"x": 0.0}, step=600, at=600)
    ledger.reachable.set()
    until(lambda: outbox.pending("a") == outbox.pending("b") == (0, ""))
    assert sorted(ledger.batches) == [1, 200, 200, 1000, 1000]
    of_a = [args.get("step", verb) for run, verb, args in ledger.sent if run == "a"]
    assert of_a == ["open", *range(0, 600, 2), "set_tags", 600]


def test_messages_of_an_ended_process_are_sent_by_the_next_one(ledger: Ledger, tmp_path: Path) -> None:
    ended = Outbox(STORE, tmp_path, ledger)
    ended.put("a", "open", name="a", params={"k": 1}, tags={})
    until(lambda: ended.pending("a") == (0, ""))
    ledger.reachable.clear()
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    ended.put("a", "log", metrics={"loss": 1.5}, step=3, at=7)
    ended.put("a", "log_image", name="samples", picture=picture, step=3)
    until(lambda: ended.file.exists() and len(ended.file.read_text().splitlines()) == 4)
    words = ended.file.read_text()
    ended.discard()
    left = tmp_path / "left.jsonl"
    ledger.reachable.set()
    for process in ("another-host:1:1", this_process()):
        left.write_text(words.replace(this_process(), process))
        assert Outbox(STORE, tmp_path, ledger).pending("a") == (0, "") and left.exists(), "it may still be sent"
    left.write_text(words.replace(this_process(), f"{socket.gethostname()}:999999999:1"))
    assert Outbox(Store("sqlite:///another.db", "x"), tmp_path, ledger).pending("a") == (0, "") and left.exists()
    fresh = Ledger()
    following = Outbox(STORE, tmp_path, fresh)
    until(lambda: following.pending("a") == (0, ""))
    assert [(run_id, verb) for run_id, verb, _ in fresh.sent] == [
        ("a", "open"), ("a", "log"), ("a", "log_image"), ("a", "close"),
    ]  # fmt: skip
    assert fresh.sent[1][2] == {"metrics": {"loss": 1.5}, "step": 3, "at": 7}
    assert (fresh.sent[2][2]["picture"] == picture).all() and fresh.sent[3][2] == {"status": "KILLED"}
    assert not list(tmp_path.iterdir())


GONE = f"{socket.gethostname()}:999999999:1"


def left_behind(folder: Path, name: str = "left.jsonl", run_id: str = "a") -> Path:
    """Write the file of a process that ended while the store was unavailable."""
    file = folder / name
    messages = [
        [run_id, "open", {"name": run_id, "params": {}, "tags": {}}],
        [run_id, "tag", {"tags": {"k": "v"}}],  # its name in earlier versions
    ]
    head = [STORE.uri, STORE.experiment, GONE]
    file.write_text("\n".join(json.dumps(line) for line in [head, *messages]))
    return file


@pytest.mark.parametrize("damage", [
    b"", b"\n", b"[", b"{}", b"[]\n", b"null", b'["a", "b"]', b"\xff\xfe", b'["u", "x", "p"]\n["a", "open"]',
    b'["u", "x", "p"]\n["a", "open", {"na', b'["u", "x", "p"]\n[1, 2, 3]', b"[" * 100_000,
])  # fmt: skip
def test_a_damaged_file_is_set_aside_and_named(
    ledger: Ledger, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1-damaged.jsonl").write_bytes(damage)
    left_behind(tmp_path)
    outbox = Outbox(STORE, tmp_path, ledger)
    until(lambda: outbox.pending("a") == (0, ""))
    assert [verb for _, verb, _ in ledger.sent] == ["open", "set_tags", "close"]
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("1-damaged.damaged", damage)]
    assert "1-damaged.jsonl: cannot be read" in caplog.text


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("damage", ["", "["], ids=["sound", "damaged"])
def test_a_file_of_another_user_does_not_end_a_training(
    ledger: Ledger, tmp_path: Path, error: int, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: Caplog
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    file = left_behind(tmp_path)
    file.write_text(damage or file.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        outbox = Outbox(STORE, tmp_path, ledger)
    outbox.put("b", "open", name="b", params={}, tags={})
    until(lambda: outbox.pending("b") == (0, ""))
    assert [run for run, _, _ in ledger.sent] == ["b"] and [*tmp_path.iterdir()] == [file]
    assert f"{file}: is passed over ({os.strerror(error)})" in caplog.text


def test_a_file_that_cannot_be_read_is_not_damaged(ledger: Ledger, tmp_path: Path, caplog: Caplog) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    Outbox(STORE, tmp_path, ledger)
    assert "folder.jsonl: is passed over (Is a directory)" in caplog.text and (tmp_path / "folder.jsonl").is_dir()


@pytest.mark.parametrize("verb", ["write_atomic", "unlink"])
def test_a_read_only_folder_does_not_stop_delivery(
    ledger: Ledger, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch, caplog: Caplog
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    left_behind(tmp_path)
    monkeypatch.setattr(*(Path, "unlink") if verb == "unlink" else (spool, "write_atomic"), refuse)
    ledger.reachable.clear()
    outbox = Outbox(STORE, tmp_path, ledger)
    outbox.put("b", "open", name="b", params={}, tags={})
    until(lambda: outbox.file.exists() if verb == "unlink" else "cannot be written" in caplog.text)
    ledger.reachable.set()
    until(lambda: outbox.pending("a") == outbox.pending("b") == (0, ""))
    outbox.put("b", "set_tags", tags={})
    until(lambda: outbox.pending("b") == (0, ""))
    words = "it cannot be removed (Permission denied)" if verb == "unlink" else "cannot be written (Permission denied)"
    assert words in caplog.text and caplog.text.count("cannot be written") <= 1


def test_of_several_starts_after_an_outage_only_one_sends_each_file(tmp_path: Path) -> None:
    for number in range(8):
        left_behind(tmp_path, f"{number}.jsonl", f"run-{number}")
    ledgers, together = [Ledger() for _ in range(4)], threading.Barrier(4)

    def start(ledger: Ledger) -> Outbox:
        together.wait()
        return Outbox(STORE, tmp_path, ledger)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, ledgers))
    until(lambda: sum(len(ledger.sent) for ledger in ledgers) == 24 and not list(tmp_path.iterdir()))
    opened = [run for ledger in ledgers for run, verb, _ in ledger.sent if verb == "open"]
    assert sorted(opened) == [f"run-{number}" for number in range(8)]


def test_a_message_stays_in_its_file_until_it_is_delivered(ledger: Ledger, tmp_path: Path) -> None:
    left_behind(tmp_path)
    ledger.reachable.clear()
    first = Outbox(STORE, tmp_path, ledger)
    first.put("b", "open", name="b", params={}, tags={})
    until(lambda: first.pending("a")[1] == "away" and first.file.exists())
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and sum(file.read_text().count('"open"') for file in files) == 2
    first.discard()
    [taken] = tmp_path.iterdir()
    name = taken.name.replace(quote(this_process(), safe=""), quote(GONE, safe=""))
    taken.rename(tmp_path / name)  # simulates the end of this process
    following = Outbox(STORE, tmp_path, fresh := Ledger())
    until(lambda: following.pending("a") == (0, ""))
    assert [verb for _, verb, _ in fresh.sent] == ["open", "set_tags", "close"] and not list(tmp_path.iterdir())


def test_the_file_of_a_refused_run_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(store: Store, run_id: str, **how: Any) -> None:
        raise RunError("experiment was deleted", reason=REFUSED)

    left_behind(tmp_path)
    outbox = Outbox(STORE, tmp_path, refuse)
    until(lambda: outbox.pending("a") == (0, ""))
    assert outbox.refusal("a") == "experiment was deleted" and outbox.refusal("b") == ""
    [file] = tmp_path.iterdir()
    assert file.suffix == ".refused" and '"tag"' in file.read_text() and "is kept as" in caplog.text


@pytest.mark.parametrize("fault", [ValueError("x"), KeyError("x"), AttributeError("x"), RecursionError("x")])
def test_no_error_ends_the_thread_that_sends(tmp_path: Path, fault: Exception) -> None:
    ledger = Ledger()

    def deliver(store: Store, run_id: str, **how: Any) -> Entry:
        if run_id == "odd":
            raise fault
        return ledger(store, run_id, **how)

    outbox = Outbox(STORE, tmp_path, deliver)
    for run in ("odd", "a"):
        outbox.put(run, "open", name=run, params={}, tags={})
    outbox.put("a", "no_such_verb")
    until(lambda: outbox.pending("odd") == outbox.pending("a") == (0, ""))
    assert type(fault).__name__ in outbox.refusal("odd") and outbox.refusal("a") == "" and ledger.sent[0][0] == "a"
