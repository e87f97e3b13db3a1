"""Middleware that checks each request before the routes: hosts, origins, API keys, concurrent requests, body sizes.

It wraps the whole app, so that it also protects routes that are added later.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Set
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gen_ray.serving.access_log import NO_KEY, record_of
from gen_ray.serving.errors import http_error
from gen_ray.serving.settings import ApiSettings, key_name

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_HEADER_BYTES = 32 * 2**10
"""Maximum bytes of all header names and values of a request together."""
WRONG_KEY = "this key is not known: send Authorization: Bearer KEY with one of the server's GEN_RAY_API_KEYS"
HEALTH = frozenset({"/healthz/live", "/healthz/ready"})


class HostMiddleware:
    """Middleware that checks the Host header, and the Origin header of requests that change something.

    A page of another site can make a browser send requests to this server, and by DNS rebinding even read the
    responses; but then the browser names that site in Host or Origin. Health checks are exempt, because probes use the
    address, and the response reveals nothing.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        """Wrap an app."""
        self.app, self.hosts, self.origins = app, frozenset(settings.hosts), frozenset(map(str.lower, settings.origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request. Raise RequestRefusedError 400, 403, 421 or 431."""
        if sum(len(name) + len(value) for name, value in scope.get("headers", ())) > MAX_HEADER_BYTES:
            raise http_error(431, f"the headers have more than {MAX_HEADER_BYTES} bytes")
        if scope["type"] == "http" and route_path(scope) not in HEALTH:
            self._check_host(scope)
        await self.app(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        hosts = header_values(scope, b"host")
        if len(hosts) != 1:
            raise http_error(400, "the request needs one Host header")
        named = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d{1,5})?", hosts[0].lower())
        if not named or not self._is_allowed(named[1], named[2]):
            raise http_error(421)
        for origin in header_values(scope, b"origin"):
            own = origin.lower() in self.origins or _host_and_port(origin) == hosts[0].lower()
            if not own and scope["method"] not in READ_METHODS:
                raise http_error(403)

    def _is_allowed(self, name: str, port: str | None) -> bool:
        """Return whether a host is allowed at any port, or at the given port; no port means 80 or 443."""
        name = name.rstrip(".")
        return name in self.hosts or any(
            f"{name}{suffix}" in self.hosts for suffix in ([port] if port else [":80", ":443"])
        )


class KeyMiddleware:
    """Middleware that requires an API key, except for reading the open paths."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, open_paths: Set[str]) -> None:
        """Wrap an app. An open path must match the whole path of a request."""
        self.app, self.keys, self.open_paths = app, settings.keys, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request. Raise RequestRefusedError 401."""
        if scope["type"] == "http" and self.keys:
            credentials = header_values(scope, b"authorization")
            scheme, _, secret = credentials[0].partition(" ") if len(credentials) == 1 else ("", "", "")
            secret = secret.strip() if scheme.lower() == "bearer" else ""
            name = key_name(secret, self.keys) if secret else None
            record_of(scope).key = name or NO_KEY
            if name is None and not (route_path(scope) in self.open_paths and scope["method"] in READ_METHODS):
                raise http_error(401, WRONG_KEY if secret else None)
        await self.app(scope, receive, send)


class BodyLimitMiddleware:
    """Middleware that receives the whole body before the app runs, with limits on its size and time.

    The received bytes are counted; Content-Length is not trusted.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        """Wrap an app."""
        self.app, self.most = app, settings.body_bytes
        self.seconds, self.open_seconds = settings.body_seconds, min(settings.body_seconds, settings.open_body_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request. Raise RequestRefusedError 400, 408, 413 or 499."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        self._check_announced(scope)
        try:
            async with asyncio.timeout(self.open_seconds if record_of(scope).key == NO_KEY else self.seconds):
                body = [await self._receive_body(receive)]
        except TimeoutError:
            raise http_error(408) from None

        async def receiving() -> Message:
            return body.pop() if body else await receive()

        await self.app(scope, receiving, send)

    def _check_announced(self, scope: Scope) -> None:
        """Refuse, before receiving, a body that is too large or whose method takes none."""
        lengths = header_values(scope, b"content-length")
        if any(not re.fullmatch(r"\d{1,18}", length) for length in lengths):
            raise http_error(400)
        announced = any(int(length) for length in lengths) or bool(header_values(scope, b"transfer-encoding"))
        if announced and scope["method"] in READ_METHODS:
            raise http_error(400, f"{scope['method']} takes no body; send the request without one")
        if any(int(length) > self.most for length in lengths):
            raise self._too_large()

    async def _receive_body(self, receive: Receive) -> Message:
        body = bytearray()
        while True:
            try:
                message = await receive()
            except Exception as error:  # from the connection: Serve's proxy raises KeyError, StopAsyncIteration, …
                raise http_error(499) from error
            if message["type"] != "http.request":
                raise http_error(499)
            body += message.get("body", b"")
            if len(body) > self.most:
                raise self._too_large()
            if not message.get("more_body", False):
                return {"type": "http.request", "body": bytes(body), "more_body": False}

    def _too_large(self) -> Exception:
        return http_error(413, f"the body has more than {self.most} bytes")


def header_values(scope: Scope, header: bytes) -> list[str]:
    """Return all values of a header."""
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]


def route_path(scope: Scope) -> str:
    """Return the path without the prefix under which the app is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if path.startswith(f"{root}/") else path


def _host_and_port(origin: str) -> str:
    """Return host:port of an origin, or "" if it has none, such as ``null``."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


class Slots:
    """Slots for concurrent requests. Half are reserved in equal parts for the keys; all keys share the other half.

    One key can therefore hold at most its own part and the shared half. The other keys always keep their parts.
    """

    def __init__(self, number: int, keys: Iterable[str]) -> None:
        """Divide a number of slots among keys; each key has at least one."""
        names = set(keys)
        self.reserved = max(1, number // (2 * len(names)))
        self.common = max(0, number - self.reserved * len(names))
        self._in_use: Counter[str] = Counter()
        self._common = 0

    def take(self, key: str) -> bool:
        """Take a slot for a key. Return False if none is free."""
        if self._in_use[key] >= self.reserved:
            if self._common >= self.common:
                return False
            self._common += 1
        self._in_use[key] += 1
        return True

    def release(self, key: str) -> None:
        """Release a slot of a key."""
        if self._in_use[key] > self.reserved:
            self._common -= 1
        self._in_use[key] -= 1


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
