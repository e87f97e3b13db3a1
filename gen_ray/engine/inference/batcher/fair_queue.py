"""The fair queue: orders requests by the network time that their key, and then they themselves, have used so far."""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from gen_ray.engine.inference.batcher.requests import RequestHandle


class HasRequestHandle(Protocol):
    """An object that waits for the network on behalf of a request."""

    @property
    def handle(self) -> RequestHandle:
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
        self._virtual_time = 0.0

    def ordered(self, waiting: Sequence[T]) -> list[T]:
        """Return the waiting objects, the least served first."""
        self._activate(frozenset(item.handle.key for item in waiting))
        least: dict[str, float] = {}
        for item in waiting:
            key, spent = item.handle.key, item.handle.network_seconds
            if spent is not None:
                least[key] = min(least.get(key, spent), spent)
        for item in waiting:
            if item.handle.network_seconds is None:
                item.handle.network_seconds = least.get(item.handle.key, 0.0)
        return sorted(waiting, key=lambda item: (self._seconds[item.handle.key], item.handle.network_seconds or 0.0))

    def charge(self, served: Collection[RequestHandle], seconds: float) -> None:
        """Divide seconds equally among the keys that were served, and then among the requests of each."""
        of: dict[str, list[RequestHandle]] = {}
        for handle in served:
            of.setdefault(handle.key, []).append(handle)
        for key, handles in of.items():
            share = seconds / len(of)
            self._seconds[key] = self._seconds.get(key, self._virtual_time) + share
            for handle in handles:
                handle.network_seconds = (handle.network_seconds or 0.0) + share / len(handles)

    def _activate(self, active: frozenset[str]) -> None:
        staying = [self._seconds[key] for key in active & self._active]
        self._virtual_time = max(self._virtual_time, min(staying, default=self._virtual_time))
        for key in active - self._active:
            self._seconds[key] = max(self._seconds.get(key, 0.0), self._virtual_time)
        self._seconds = {
            key: spent for key, spent in self._seconds.items() if key in active or spent > self._virtual_time
        }
        self._active = active
