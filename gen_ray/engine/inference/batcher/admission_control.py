"""Admission control: the backlog of the batcher in evaluations and seconds, its counters, and when to refuse."""

import threading
from collections.abc import Mapping

from gen_ray.engine.inference.batcher.errors import BusyError
from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile
from gen_ray.engine.inference.batcher.requests import RequestHandle

MOST_REQUESTS = 256
"""Most unfinished requests of one key."""
MOST_IN_ALL = 1024
"""Most unfinished requests of all keys together."""
FAULTS = 3
"""Number of consecutive forwards that raised after which the batcher is unhealthy."""
MOMENTUM = 0.05
"""Weight of the latest evaluation in the running mean of the speed."""


class AdmissionControl:
    """Counters that only grow, the remaining work of each request, and the current speed. Thread-safe."""

    def __init__(self, costs: LatencyProfile, backlog_limit: float) -> None:
        """Refuse a request that would wait for more than backlog_limit seconds of work."""
        self.costs, self.backlog_limit = costs, backlog_limit
        self.evaluations = self.ticks = self.room = self.faults = 0
        self.busy_seconds = 0.0
        self.pace = 1.0
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
        found: dict[str, tuple[int, float]] = {}
        with self._lock:
            for handle, left in self._left.items():
                requests, seconds = found.get(handle.key, (0, 0.0))
                found[handle.key] = (requests + 1, seconds + left * self._row_seconds)
        return found

    @property
    def backlog_seconds(self) -> float:
        """Return the seconds that all pending work takes."""
        return self.pending * self._row_seconds

    @property
    def _row_seconds(self) -> float:
        return self.costs.row_seconds * self.pace

    @property
    def well(self) -> bool:
        """Return whether fewer than FAULTS consecutive forwards have raised."""
        return self.faults < FAULTS

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
            if len(mine) >= MOST_REQUESTS or len(self._left) >= MOST_IN_ALL:
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

    def leave(self, handle: RequestHandle) -> None:
        """Remove a request, whatever is left of it."""
        with self._lock:
            self._left.pop(handle, None)

    def did(self, rows: Mapping[RequestHandle, int]) -> None:
        """Subtract one evaluation of the given rows from each request; an estimate that was too low stays at 1."""
        with self._lock:
            for handle, done in rows.items():
                if handle in self._left:
                    self._left[handle] = max(1, self._left[handle] - done)

    def sound(self) -> None:
        """Record a forward that did not raise."""
        self.faults = 0

    def tick(self, rows: int, room: int, fixed: int | None, seconds: float) -> None:
        """Count a batch evaluation of rows rows, where room rows were possible."""
        self.ticks, self.evaluations, self.room = self.ticks + 1, self.evaluations + rows, self.room + room
        self.busy_seconds += seconds
        self.pace += MOMENTUM * (min(10.0, seconds / self.costs.of(fixed or rows)) - self.pace)

    def fault(self) -> None:
        """Record a forward that raised."""
        self.faults += 1

    def close(self, *, give_up: bool) -> None:
        """Refuse all further requests; with give_up, also cancel the unfinished ones."""
        with self._lock:
            self.closed = True
            for handle in self._left if give_up else ():
                handle.cancel_request()
