"""Interruptible waiting that logs the reason every ten seconds."""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from gen_ray.errors import RunError

REPORT_SECONDS = 10.0
T = TypeVar("T")
logger = logging.getLogger(__name__)


def started(call: Callable[[], T]) -> "Future[T]":
    """Run a call in a daemon thread, which, unlike a pool's threads, does not keep the process alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def awaited(call: Callable[[], T], report: Callable[[], str] = str) -> T:
    """Return the result of a call; report returns one line with the reason of the wait, or "".

    The call runs outside the main thread: inside Ray a signal is noticed late, and an error of its handler becomes a
    SystemError.
    """
    return result(started(call), report)


def result(future: "Future[T]", report: Callable[[], str] = str) -> T:
    """Return the result of a future from started; report as in awaited."""
    while True:
        try:
            return future.result(REPORT_SECONDS)
        except TimeoutError:
            if future.done():  # the call's own error
                raise
        except RayTaskError:
            raise
        except RayError as error:
            raise lost(error) from error
        line = report()
        if line:
            logger.warning("%s", line)


def missing(needs: Mapping[str, float]) -> str:
    """Describe the resources of needs that are not free on the cluster; "" if all are free."""
    free, total = ray.available_resources(), ray.cluster_resources()
    short = {kind: amount for kind, amount in needs.items() if free.get(kind, 0.0) < amount}
    return ", ".join(
        f"{amount:g} {kind} ({free.get(kind, 0.0):g} of {total.get(kind, 0.0):g} free)"
        for kind, amount in short.items()
    )


def is_placing() -> bool:
    """Return whether a placement group on the cluster waits for resources, such as that of a training."""
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in ray.util.placement_group_table().values())


def lost(error: RayError) -> RunError:
    """Return a RunError with cause and remedy for a Ray process that was lost despite restarts."""
    if isinstance(error, OutOfMemoryError):
        remedy = "use fewer or smaller workers, or raise RAY_memory_usage_threshold"
        return RunError(f"Ray ended a process because its machine's memory is full: {remedy}", reason="memory")
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return RunError(f"a Ray process died repeatedly: {first}", reason="lost")
