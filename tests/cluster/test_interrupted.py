"""A training that a signal interrupts."""

import os
import signal
import threading
import time

import pytest

from gen_ray.cluster.training import train
from gen_ray.errors import EndedError


class Interrupted:
    """A run logger whose workers stop at once on request."""

    run_id = "a"

    def __init__(self) -> None:
        """Create a logger without a requested stop."""
        self.stopped = threading.Event()

    def has_started(self) -> bool:
        return True

    def stop(self) -> None:
        self.stopped.set()

    def fault(self) -> dict[str, str]:
        return {"message": "stopped at step 3 of 9"} if self.stopped.is_set() else {}


def test_ray_train_returns_before_ray_is_shut_down() -> None:
    """Regression: a shutdown while a thread used Ray crashed the process with SIGSEGV or started a second Ray."""
    track, returned = Interrupted(), threading.Event()

    def fit() -> dict[str, str]:
        track.stopped.wait()
        time.sleep(0.5)  # the controller polls its workers
        returned.set()
        return {}

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(EndedError, match="stopped at step 3 of 9"):
            train._stoppable(fit, track, {})  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert returned.is_set()
