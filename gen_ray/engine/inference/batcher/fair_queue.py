"""The fair queue: orders requests by the network time that their key, and then they themselves, have used so far."""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from gen_ray.engine.inference.batcher.requests import RequestHandle


class HasRequestHandle(Protocol):
    """An object that waits for the network on behalf of a request."""

    @property
    def ticket(self) -> RequestHandle:
        """Return the handle of the request."""
        ...


T = TypeVar("T", bound=HasRequestHandle)


class FairQueue:
    """Fair queueing in two levels: keys share the time equally, and so do the requests of each key.

    A new request, or a key that was idle, starts level with the least served of the others: it is neither credited nor
    charged for the time before (Goyal et al. 1996, start-time fair queueing).
    """

    def __init__(self) -> None:
        """Start with every key at zero."""
        self._seconds: dict[str, float] = {}
        self._active: frozenset[str] = frozenset()
        self._level = 0.0

    def ordered(self, asking: Sequence[T]) -> list[T]:
        """Return the waiting objects, the least served first."""
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
        for handle in served:
            of.setdefault(handle.key, []).append(handle)
        for key, handles in of.items():
            share = seconds / len(of)
            self._seconds[key] = self._seconds.get(key, self._level) + share
            for handle in handles:
                handle.spent = (handle.spent or 0.0) + share / len(handles)

    def _arrive(self, active: frozenset[str]) -> None:
        staying = [self._seconds[key] for key in active & self._active]
        self._level = max(self._level, min(staying, default=self._level))
        for key in active - self._active:
            self._seconds[key] = max(self._seconds.get(key, 0.0), self._level)
        self._seconds = {key: spent for key, spent in self._seconds.items() if key in active or spent > self._level}
        self._active = active
