"""Waiting that can be interrupted by a signal and says every ten seconds what it waits for."""

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
    """Run a call in a thread that does not keep the process from ending, as a pool's threads do."""
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found


def awaited(call: Callable[[], T], report: Callable[[], str] = str) -> T:
    """Return what a call returns; report returns in a line what it waits for, or nothing.

    Not in the main thread: inside Ray a signal is noticed late, and the error of its handler becomes a SystemError.
    """
    return result(started(call), report)


def result(found: "Future[T]", report: Callable[[], str] = str) -> T:
    """Return the result of a call that was started, as awaited does."""
    while True:
        try:
            return found.result(REPORT_SECONDS)
        except TimeoutError:
            if found.done():  # the call's own error
                raise
        except RayTaskError:
            raise
        except RayError as error:
            raise lost(error) from error
        line = report()
        if line:
            logger.warning("%s", line)


def missing(needs: Mapping[str, float]) -> str:
    """Return in words which of the resources are not free on the cluster, empty where all are."""
    free, there = ray.available_resources(), ray.cluster_resources()
    short = {kind: amount for kind, amount in needs.items() if free.get(kind, 0.0) < amount}
    return ", ".join(
        f"{amount:g} {kind} ({free.get(kind, 0.0):g} of {there.get(kind, 0.0):g} free)"
        for kind, amount in short.items()
    )


def is_placing() -> bool:
    """Return whether a placement group on the cluster waits for resources, as those of trainings do."""
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in ray.util.placement_group_table().values())


def lost(error: RayError) -> RunError:
    """Return what ended a process of Ray's that was started again in vain, in a line with the remedy."""
    if isinstance(error, OutOfMemoryError):
        remedy = "use fewer or smaller workers, or raise RAY_memory_usage_threshold"
        return RunError(f"Ray ended a process because its machine's memory is full: {remedy}", reason="memory")
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return RunError(f"a process of Ray's died again and again: {first}", reason="lost")
