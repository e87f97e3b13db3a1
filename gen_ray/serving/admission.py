"""Admission control at the ingress: the number of concurrent requests, divided among the API keys."""

from collections import Counter
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from gen_ray.serving.access import NO_KEY, record_of
from gen_ray.serving.errors import http_error
from gen_ray.serving.middleware import HEALTH, route_path
from gen_ray.serving.settings import ApiSettings


class Slots:
    """Slots for concurrent requests. Half are reserved in equal parts for the keys; all keys share the other half.

    One key can therefore hold at most its own part and the shared half. The other keys always keep their parts.
    """

    def __init__(self, number: int, keys: Iterable[str]) -> None:
        """Divide a number of slots among keys; each key has at least one."""
        names = set(keys)
        self.reserved = max(1, number // (2 * len(names)))
        self.common = max(0, number - self.reserved * len(names))
        self._held: Counter[str] = Counter()
        self._common = 0

    def take(self, key: str) -> bool:
        """Take a slot for a key. Return False if none is free."""
        if self._held[key] >= self.reserved:
            if self._common >= self.common:
                return False
            self._common += 1
        self._held[key] += 1
        return True

    def release(self, key: str) -> None:
        """Release a slot of a key."""
        if self._held[key] > self.reserved:
            self._common -= 1
        self._held[key] -= 1


class AdmissionMiddleware:
    """Middleware that refuses a request when all slots of its key are in use. Health checks are not counted.

    It runs after KeyMiddleware and before BodyLimitMiddleware.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        """Wrap an app."""
        self.app = app
        self.slots = Slots(settings.requests_at_once, [NO_KEY, *(key.name for key in settings.keys)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request. Raise RequestRefusedError 429."""
        if scope["type"] != "http" or route_path(scope) in HEALTH:
            return await self.app(scope, receive, send)
        key = record_of(scope).key
        if not self.slots.take(key):
            raise http_error(429, "too many concurrent requests of this key; try again after Retry-After seconds")
        try:
            await self.app(scope, receive, send)
        finally:
            self.slots.release(key)
