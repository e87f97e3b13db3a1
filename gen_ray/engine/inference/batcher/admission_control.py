"""Admission control: the backlog of the batcher in evaluations and seconds, its counters, and when to refuse."""

import threading
from collections.abc import Mapping

from gen_ray.engine.inference.batcher.errors import BusyError
from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile
from gen_ray.engine.inference.batcher.requests import RequestHandle

MAX_REQUESTS_PER_KEY = 256
"""Most unfinished requests of one key."""
MAX_REQUESTS = 1024
"""Most unfinished requests of all keys together."""
MAX_CONSECUTIVE_ERRORS = 3
"""Number of consecutive forwards that raised after which the batcher is unhealthy."""
SMOOTHING = 0.05
"""Weight of the latest evaluation in the running mean of the speed."""


class AdmissionControl:
    """Counters that only grow, the remaining work of each request, and the current speed. Thread-safe."""

    def __init__(self, profile: LatencyProfile, backlog_limit: float) -> None:
        """Refuse a request that would wait for more than backlog_limit seconds of work."""
        self.profile, self.backlog_limit = profile, backlog_limit
        self.evaluations = self.ticks = self.possible_rows = self.consecutive_errors = 0
        self.busy_seconds = 0.0
        self.slowdown = 1.0
        """Running mean of an evaluation's time, as a multiple of the time measured at the start."""
        self.closed = False
        self._left: dict[RequestHandle, int] = {}
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """Return the number of unfinished requests."""
        return len(self._left)

    @property
    def pending(self) -> int:
        """Return the remaining evaluations of all requests."""
        with self._lock:
            return sum(self._left.values())

    @property
    def by_key(self) -> Mapping[str, tuple[int, float]]:
        """Return for each key the number of its unfinished requests and the seconds of their remaining work."""
        totals: dict[str, tuple[int, float]] = {}
        with self._lock:
            for handle, left in self._left.items():
                requests, seconds = totals.get(handle.key, (0, 0.0))
                totals[handle.key] = (requests + 1, seconds + left * self._row_seconds)
        return totals

    @property
    def backlog_seconds(self) -> float:
        """Return the seconds that all pending work takes."""
        return self.pending * self._row_seconds

    @property
    def _row_seconds(self) -> float:
        return self.profile.row_seconds * self.slowdown

    @property
    def healthy(self) -> bool:
        """Return whether fewer than MAX_CONSECUTIVE_ERRORS consecutive forwards have raised."""
        return self.consecutive_errors < MAX_CONSECUTIVE_ERRORS

    @property
    def closed_and_empty(self) -> bool:
        """Return whether the batcher is closed and no work is left."""
        return self.closed and not self._left

    def admit(self, handle: RequestHandle, evaluations: int) -> None:
        """Admit a request. Raise BusyError where it would wait too long, or where its key has too many requests.

        The requests of a key share its time equally. Another request of the key therefore delays a new one by its
        remaining work, but by no more than the work of the new one: beside a request of a minute, one of a second is
        admitted, but not hundreds of them. Keys share the time equally, too: another key causes a delay of at most
        the work of the request's own key, the new request included.
        """
        with self._lock:
            of_key: dict[str, list[int]] = {}
            for other, left in self._left.items():
                of_key.setdefault(other.key, []).append(left)
            mine = of_key.pop(handle.key, [])
            if len(mine) >= MAX_REQUESTS_PER_KEY or len(self._left) >= MAX_REQUESTS:
                raise BusyError(
                    f"{len(self._left)} requests are unfinished, {len(mine)} of this key", retry_after_seconds=1.0
                )
            own = sum(min(left, evaluations) for left in mine)
            others = sum(min(sum(lefts), own + evaluations) for lefts in of_key.values())
            waiting = (own + others) * self._row_seconds
            if self.closed or waiting > self.backlog_limit:
                message = f"{waiting:.0f} seconds of work come before it; the limit is {self.backlog_limit:.0f} seconds"
                raise BusyError(message, retry_after_seconds=max(1.0, waiting - self.backlog_limit))
            self._left[handle] = evaluations

    def release(self, handle: RequestHandle) -> None:
        """Remove a request, whatever is left of it."""
        with self._lock:
            self._left.pop(handle, None)

    def subtract(self, rows: Mapping[RequestHandle, int]) -> None:
        """Subtract one evaluation of the given rows from each request; an estimate that was too low stays at 1."""
        with self._lock:
            for handle, done in rows.items():
                if handle in self._left:
                    self._left[handle] = max(1, self._left[handle] - done)

    def record_success(self) -> None:
        """Record a forward that did not raise."""
        self.consecutive_errors = 0

    def record_batch(self, rows: int, possible_rows: int, padded_rows: int | None, seconds: float) -> None:
        """Record an evaluation of rows out of possible_rows; padded_rows is its size if it was padded."""
        self.ticks += 1
        self.evaluations += rows
        self.possible_rows += possible_rows
        self.busy_seconds += seconds
        self.slowdown += SMOOTHING * (min(10.0, seconds / self.profile.seconds_of(padded_rows or rows)) - self.slowdown)

    def record_error(self) -> None:
        """Record a forward that raised."""
        self.consecutive_errors += 1

    def close(self, *, cancel: bool) -> None:
        """Refuse all further requests; with cancel, also cancel the unfinished ones."""
        with self._lock:
            self.closed = True
            for handle in self._left if cancel else ():
                handle.cancel_request()
