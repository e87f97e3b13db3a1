"""The order of requests: those whose key, and then who themselves, had the least time so far come first."""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from gen_ray.engine.inference.batcher.requests import RequestHandle


class HasRequestHandle(Protocol):
    """Anything that waits for the net on behalf of a request."""

    @property
    def ticket(self) -> RequestHandle:
        """Return the request's ticket."""
        ...


T = TypeVar("T", bound=HasRequestHandle)


class FairQueue:
    """Fair queueing in two levels: keys share the time equally, and so do the requests of each key.

    A request that arrives, or a key that was idle, starts level with the least served of the others: it is neither
    paid for the time before nor made to wait for it (Goyal et al. 1996, start-time fair queueing).
    """

    def __init__(self) -> None:
        """Start with every key at zero."""
        self._seconds: dict[str, float] = {}
        self._active: frozenset[str] = frozenset()
        self._level = 0.0

    def ordered(self, asking: Sequence[T]) -> list[T]:
        """Return what asks, the least served first."""
        self._arrive(frozenset(one.ticket.key for one in asking))
        known: dict[str, float] = {}
        for one in asking:
            if one.ticket.spent is not None:
                known[one.ticket.key] = min(known.get(one.ticket.key, one.ticket.spent), one.ticket.spent)
        for one in asking:
            if one.ticket.spent is None:
                one.ticket.spent = known.get(one.ticket.key, 0.0)
        return sorted(asking, key=lambda one: (self._seconds[one.ticket.key], one.ticket.spent or 0.0))

    def charge(self, served: Collection[RequestHandle], seconds: float) -> None:
        """Divide seconds equally among the keys that were served, and then among the requests of each."""
        of: dict[str, list[RequestHandle]] = {}
        for ticket in served:
            of.setdefault(ticket.key, []).append(ticket)
        for key, tickets in of.items():
            share = seconds / len(of)
            self._seconds[key] = self._seconds.get(key, self._level) + share
            for ticket in tickets:
                ticket.spent = (ticket.spent or 0.0) + share / len(tickets)

    def _arrive(self, active: frozenset[str]) -> None:
        staying = [self._seconds[key] for key in active & self._active]
        self._level = max(self._level, min(staying, default=self._level))
        for key in active - self._active:
            self._seconds[key] = max(self._seconds.get(key, 0.0), self._level)
        self._seconds = {key: spent for key, spent in self._seconds.items() if key in active or spent > self._level}
        self._active = active
