"""What a batcher has to do and has done, in evaluations and in seconds; and whether more may come."""

import threading
from collections.abc import Mapping

from gen_ray.engine.inference.batcher.errors import BusyError
from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile
from gen_ray.engine.inference.batcher.requests import RequestHandle

MOST_REQUESTS = 256
"""Of one key."""
MOST_IN_ALL = 1024
FAULTS = 3
"""Forwards that raised without a tick between that did not, after which a batcher is not well."""
MOMENTUM = 0.05


class AdmissionControl:
    """Counters that only grow, what is left of each request, and how fast it goes. May be asked from any thread."""

    def __init__(self, costs: LatencyProfile, backlog_limit: float) -> None:
        """Refuse a request before which there would be more than backlog_limit seconds of work."""
        self.costs, self.backlog_limit = costs, backlog_limit
        self.evaluations = self.ticks = self.room = self.faults = 0
        self.busy_seconds = 0.0
        self.pace = 1.0
        """How many times what was measured at the start a tick takes now, a running mean."""
        self.closed = False
        self._left: dict[RequestHandle, int] = {}
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """Return how many requests are not done yet."""
        return len(self._left)

    @property
    def pending(self) -> int:
        """Return the evaluations that are left of all requests."""
        with self._lock:
            return sum(self._left.values())

    @property
    def by_key(self) -> Mapping[str, tuple[int, float]]:
        """Return the number of requests of each key that are not done yet, and how long their work will take."""
        found: dict[str, tuple[int, float]] = {}
        with self._lock:
            for ticket, left in self._left.items():
                requests, seconds = found.get(ticket.key, (0, 0.0))
                found[ticket.key] = (requests + 1, seconds + left * self._row_seconds)
        return found

    @property
    def backlog_seconds(self) -> float:
        """Return how long all that is pending will take."""
        return self.pending * self._row_seconds

    @property
    def _row_seconds(self) -> float:
        return self.costs.row_seconds * self.pace

    @property
    def well(self) -> bool:
        """Return whether forwards do not keep raising."""
        return self.faults < FAULTS

    @property
    def closed_and_empty(self) -> bool:
        """Return whether nothing is to be done any more."""
        return self.closed and not self._left

    def admit(self, ticket: RequestHandle, evaluations: int) -> None:
        """Take a request in. Raise BusyError where it would have to wait too long, or its key has too many requests.

        As the requests of a key share alike, another one delays it by what that has left, but by no more than it has to
        do itself: beside a request of a minute there is room for one of a second, but not for hundreds of them. Keys
        share alike, too: another key delays it by no more than what its own key has to do until it is done.
        """
        with self._lock:
            of_key: dict[str, list[int]] = {}
            for other, left in self._left.items():
                of_key.setdefault(other.key, []).append(left)
            mine = of_key.pop(ticket.key, [])
            if len(mine) >= MOST_REQUESTS or len(self._left) >= MOST_IN_ALL:
                raise BusyError(
                    f"{len(self._left)} requests are under way, {len(mine)} of this key", retry_after_seconds=1.0
                )
            own = sum(min(left, evaluations) for left in mine)
            others = sum(min(sum(lefts), own + evaluations) for lefts in of_key.values())
            waiting = (own + others) * self._row_seconds
            if self.closed or waiting > self.backlog_limit:
                message = f"{waiting:.0f} seconds of work come before it; the most is {self.backlog_limit:.0f}"
                raise BusyError(message, retry_after_seconds=max(1.0, waiting - self.backlog_limit))
            self._left[ticket] = evaluations

    def leave(self, ticket: RequestHandle) -> None:
        """Let a request go, whatever is left of it."""
        with self._lock:
            self._left.pop(ticket, None)

    def did(self, rows: Mapping[RequestHandle, int]) -> None:
        """Subtract an evaluation of some rows of each; an estimate that was too low ends at 1."""
        with self._lock:
            for ticket, done in rows.items():
                if ticket in self._left:
                    self._left[ticket] = max(1, self._left[ticket] - done)

    def sound(self) -> None:
        """Count a forward that did not raise."""
        self.faults = 0

    def tick(self, rows: int, room: int, fixed: int | None, seconds: float) -> None:
        """Count a tick of so many rows where there was room for so many."""
        self.ticks, self.evaluations, self.room = self.ticks + 1, self.evaluations + rows, self.room + room
        self.busy_seconds += seconds
        self.pace += MOMENTUM * (min(10.0, seconds / self.costs.of(fixed or rows)) - self.pace)

    def fault(self) -> None:
        """Count a forward that raised."""
        self.faults += 1

    def close(self, *, give_up: bool) -> None:
        """Take nothing more in."""
        with self._lock:
            self.closed = True
            for ticket in self._left if give_up else ():
                ticket.cancel_request()
