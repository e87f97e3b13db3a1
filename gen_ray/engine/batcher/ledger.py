"""What a batcher has to do and has done, in evaluations and in seconds; and whether more may come."""

import threading

from gen_ray.engine.batcher.costs import Costs
from gen_ray.engine.batcher.refusals import BusyError
from gen_ray.engine.batcher.ticket import Ticket

MOST_REQUESTS = 256
FAULTS = 3
"""Forwards that raised without a tick between that did not, after which a batcher is not well."""
MOMENTUM = 0.05


class Ledger:
    """Counters that only grow, what is pending, and how fast it goes. May be asked from any thread."""

    def __init__(self, costs: Costs, backlog_limit: float) -> None:
        """Refuse while more than backlog_limit seconds of work are waiting."""
        self.costs, self.backlog_limit = costs, backlog_limit
        self.evaluations = self.ticks = self.room = 0
        self.busy_seconds = 0.0
        self.pending = self.faults = 0
        self.pace = 1.0
        """How many times what was measured at the start a tick takes now, a running mean."""
        self.closed = False
        self._open: set[Ticket] = set()
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """Return how many requests are not done yet."""
        return len(self._open)

    @property
    def backlog_seconds(self) -> float:
        """Return how long all that is pending will take."""
        return self.pending * self.costs.row_seconds * self.pace

    @property
    def well(self) -> bool:
        """Return whether forwards do not keep raising."""
        return self.faults < FAULTS

    @property
    def closed_and_empty(self) -> bool:
        """Return whether nothing is to be done any more."""
        return self.closed and not self._open

    def enter(self, ticket: Ticket, evaluations: int) -> None:
        """Take a request in. Raise BusyError where there is too much to do already."""
        with self._lock:
            over = self.backlog_seconds - self.backlog_limit
            if self.closed or over > 0 or len(self._open) >= MOST_REQUESTS:
                message = f"{self.backlog_seconds:.0f} seconds of work are waiting"
                raise BusyError(message, retry_after_seconds=max(1.0, over))
            self.pending += evaluations
            self._open.add(ticket)

    def leave(self, ticket: Ticket, evaluations: int) -> None:
        """Let a request go, of which so many evaluations were left."""
        with self._lock:
            self.pending -= evaluations
            self._open.discard(ticket)

    def did(self, evaluations: int) -> None:
        """Count off evaluations of walks."""
        self.faults = 0
        with self._lock:
            self.pending -= evaluations

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
            for ticket in self._open if give_up else ():
                ticket.give_up()
