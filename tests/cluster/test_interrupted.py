"""A training that a signal interrupts."""

import os
import signal
import threading
import time

import pytest

from gen_ray.cluster.training import train
from gen_ray.errors import EndedError


class Interrupted:
    """A tracker whose workers stop at once when they are asked to."""

    run_id = "a"

    def __init__(self) -> None:
        """Start without a stop."""
        self.stopped = threading.Event()

    def has_started(self) -> bool:
        return True

    def stop(self) -> None:
        self.stopped.set()

    def fault(self) -> dict[str, str]:
        return {"message": "stopped at step 3 of 9"} if self.stopped.is_set() else {}


def test_ray_train_has_returned_before_ray_may_be_shut_down() -> None:
    """Shut down while a thread is inside Ray, the process crashed with SIGSEGV or started a second Ray."""
    track, returned = Interrupted(), threading.Event()

    def fit() -> dict[str, str]:
        track.stopped.wait()
        time.sleep(0.5)  # a controller looks at its workers now and then
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
