"""Requests that may be under way at once at the ingress, divided among the keys; health checks are not counted."""

from collections import Counter
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from gen_ray.serving.access import NO_KEY, record_of
from gen_ray.serving.errors import http_error
from gen_ray.serving.middleware import HEALTH, route_path
from gen_ray.serving.settings import ApiSettings


class Slots:
    """Slots for requests. Half are reserved for the keys in equal parts; all keys compete for the other half.

    One key can therefore hold at most its own part and the common half, and each other key still has its part.
    """

    def __init__(self, number: int, keys: Iterable[str]) -> None:
        """Divide a number of slots; each key has at least one."""
        names = set(keys)
        self.reserved = max(1, number // (2 * len(names)))
        self.common = max(0, number - self.reserved * len(names))
        self._held: Counter[str] = Counter()
        self._common = 0

    def take(self, key: str) -> bool:
        """Take a slot for a key; return whether there was one."""
        if self._held[key] >= self.reserved:
            if self._common >= self.common:
                return False
            self._common += 1
        self._held[key] += 1
        return True

    def release(self, key: str) -> None:
        """Give a slot back."""
        if self._held[key] > self.reserved:
            self._common -= 1
        self._held[key] -= 1


class AdmissionMiddleware:
    """Middleware: refuses a request when its key has used its slots. Runs after keys, before bodies."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        """Stand in front of an app."""
        self.app = app
        self.slots = Slots(settings.requests_at_once, [NO_KEY, *(key.name for key in settings.keys)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise RefusedError 429."""
        if scope["type"] != "http" or route_path(scope) in HEALTH:
            return await self.app(scope, receive, send)
        key = record_of(scope).key
        if not self.slots.take(key):
            raise http_error(429, "too many requests of this key are under way; come back after Retry-After seconds")
        try:
            await self.app(scope, receive, send)
        finally:
            self.slots.release(key)
