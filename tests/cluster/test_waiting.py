"""Waiting commands: they report the reason repeatedly, and a signal ends the wait."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import ray

from gen_ray.cluster.data.reading import read
from gen_ray.cluster.jobs import waiting
from gen_ray.datasets.prepare import prepare
from gen_ray.errors import RunError


@contextmanager
def all_cores() -> Iterator[None]:
    group = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(group.ready(), timeout=60)
    try:
        yield
    finally:
        ray.util.remove_placement_group(group)


def test_the_reason_of_the_wait_is_repeated(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REPORT_SECONDS", 0.05)
    with caplog.at_level(logging.WARNING):
        assert waiting.awaited(lambda: time.sleep(0.3) or 7, lambda: "waits for 1 CPU") == 7
    assert caplog.messages.count("waits for 1 CPU") >= 3


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("of the call"), TimeoutError),
        (RunError("its own"), RunError),
        (ray.exceptions.WorkerCrashedError(), RunError),
    ],
)
def test_errors_of_the_call_are_raised(error: Exception, kind: type[Exception]) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(kind) as raised:
        waiting.awaited(fails)
    assert "\n" not in str(raised.value)


def test_a_signal_ends_the_wait() -> None:
    before, never = signal.signal(signal.SIGINT, signal.default_int_handler), threading.Event()
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            waiting.awaited(never.wait)
    finally:
        never.set()
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("cluster")
def test_on_a_full_cluster_data_are_read_and_missing_resources_are_named(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    prepared = prepare("digits", out=tmp_path_factory.mktemp("data"))
    with all_cores():
        began = time.monotonic()
        assert waiting.missing({"CPU": 2.0}) == "2 CPU (0 of 4 free)" and not waiting.is_placing()
        assert read(prepared)["train"].count() == prepared.rows["train"] and time.monotonic() - began < 30
        waits = ray.util.placement_group([{"CPU": 1}])
        assert becomes(waiting.is_placing)
        ray.util.remove_placement_group(waits)


def becomes(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.1)
    return found
