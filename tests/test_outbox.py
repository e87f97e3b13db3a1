"""Messages to MLflow arrive in order, late rather than never, and never twice."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen_ray.errors import RunError
from gen_ray.outbox import Outbox
from gen_ray.store import Store
from gen_ray.tracking import REFUSED, this_process

STORE = Store("sqlite:///nowhere.db", "x")


class Ledger:
    """A store that can be away, or refuse a name."""

    def __init__(self) -> None:
        self.there, self.seen = threading.Event(), list[tuple[str, str, dict[str, Any]]]()
        self.batches = list[int]()
        self.there.set()

    def __call__(self, store: Store, run_id: str, **how: Any) -> "Entry":
        self.enter(run_id, "open", **how)
        return Entry(self, run_id)

    def enter(self, run_id: str, verb: str, **args: Any) -> None:
        if not self.there.is_set():
            raise RunError("away", reason="tracking")
        if args.get("step") == -1:
            raise RunError("no such step", reason=REFUSED)
        self.seen.append((run_id, verb, args))


class Entry:
    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self.ledger, self.run_id = ledger, run_id

    def log_points(self, points: list[Any]) -> None:
        if not self.ledger.there.is_set():
            raise RunError("away", reason="tracking")
        if len(points) > 1 and any(step == -1 for _, step, _ in points):
            raise RunError("no such step", reason=REFUSED)
        self.ledger.batches.append(sum(len(metrics) for metrics, _, _ in points))
        for metrics, step, at in points:
            self.ledger.enter(self.run_id, "log", metrics=metrics, step=step, at=at)

    def __getattr__(self, verb: str) -> Any:
        return lambda **args: self.ledger.enter(self.run_id, verb, **args)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_ray.outbox.RETRY_SECONDS", 0.02)


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_store_that_is_away_delays_messages_and_loses_none(ledger: Ledger, tmp_path: Path) -> None:
    outbox = Outbox(STORE, tmp_path, ledger)
    outbox.put("a", "open", name="a", params={}, tags={})
    until(lambda: outbox.pending("a") == (0, ""))
    ledger.there.clear()
    began = time.monotonic()
    for step in range(100):
        outbox.put("a", "log", metrics={"loss": 1.0}, step=step, at=step)
    assert time.monotonic() - began < 0.5, "nobody waits for the store"
    until(lambda: outbox.pending("a") == (100, "away"))
    ledger.there.set()
    until(lambda: outbox.pending("a") == (0, ""))
    assert [args["step"] for _, verb, args in ledger.seen if verb == "log"] == list(range(100))
    assert not list(tmp_path.iterdir())


def test_what_is_refused_for_good_does_not_hold_up_the_rest(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(STORE, tmp_path, ledger)
    outbox.put("a", "open", name="a", params={}, tags={})
    ledger.there.clear()
    for step in (1, 2, -1, 4):
        outbox.put("a", "log", metrics={}, step=step, at=0)
    ledger.there.set()
    until(lambda: outbox.pending("a") == (0, ""))
    assert [args["step"] for _, verb, args in ledger.seen if verb == "log"] == [1, 2, 4]
    assert "a: no such step" in caplog.text


def test_metrics_of_a_run_go_together_and_pass_nothing_of_their_run(ledger: Ledger, tmp_path: Path) -> None:
    outbox = Outbox(STORE, tmp_path, ledger)
    ledger.there.clear()
    for run in "ab":
        outbox.put(run, "open", name=run, params={}, tags={})
    for step in range(600):
        outbox.put("ab"[step % 2], "log", metrics={"x": 0.0, "y": 1.0, "z": 2.0, "w": 3.0}, step=step, at=step)
    outbox.put("a", "tag", tags={"k": "v"})
    outbox.put("a", "log", metrics={"x": 0.0}, step=600, at=600)
    ledger.there.set()
    until(lambda: outbox.pending("a") == outbox.pending("b") == (0, ""))
    assert sorted(ledger.batches) == [1, 200, 200, 1000, 1000]
    of_a = [args.get("step", verb) for run, verb, args in ledger.seen if run == "a"]
    assert of_a == ["open", *range(0, 600, 2), "tag", 600]


def test_what_a_process_leaves_behind_the_next_one_sends(ledger: Ledger, tmp_path: Path) -> None:
    gone = Outbox(STORE, tmp_path, ledger)
    gone.put("a", "open", name="a", params={"k": 1}, tags={})
    until(lambda: gone.pending("a") == (0, ""))
    ledger.there.clear()
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    gone.put("a", "log", metrics={"loss": 1.5}, step=3, at=7)
    gone.put("a", "show", name="samples", picture=picture, step=3)
    until(lambda: gone.file.exists() and len(gone.file.read_text().splitlines()) == 4)
    words = gone.file.read_text()
    gone.discard()
    left = tmp_path / "left.jsonl"
    ledger.there.set()
    for process in ("another-host:1:1", this_process()):
        left.write_text(words.replace(this_process(), process))
        assert Outbox(STORE, tmp_path, ledger).pending("a") == (0, "") and left.exists(), "it may still be sent"
    left.write_text(words.replace(this_process(), f"{socket.gethostname()}:999999999:1"))
    assert Outbox(Store("sqlite:///another.db", "x"), tmp_path, ledger).pending("a") == (0, "") and left.exists()
    fresh = Ledger()
    following = Outbox(STORE, tmp_path, fresh)
    until(lambda: following.pending("a") == (0, ""))
    assert [(run_id, verb) for run_id, verb, _ in fresh.seen] == [
        ("a", "open"), ("a", "log"), ("a", "show"), ("a", "close"),
    ]  # fmt: skip
    assert fresh.seen[1][2] == {"metrics": {"loss": 1.5}, "step": 3, "at": 7}
    assert (fresh.seen[2][2]["picture"] == picture).all() and fresh.seen[3][2] == {"status": "KILLED"}
    assert not list(tmp_path.iterdir())
