"""Limits of Ray Serve's HTTP proxies: connections, headers and request ids, before anything reaches an ingress.

Serve imports ``middlewares`` in each proxy, by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH (see environment.SERVE).
"""

import asyncio
import json
import re
import secrets
import socket
import time
from typing import Any

import httptools
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gen_ray.serving.access_log import valid_request_id
from gen_ray.serving.errors import CODES, error_response
from gen_ray.serving.middleware import MAX_HEADER_BYTES
from gen_ray.serving.service import ErrorReply

MAX_CONNECTIONS = 1000
"""Maximum open connections of a proxy. A further one replaces the longest idle one; if none is idle, it is closed.

The backlog of the system's socket is not counted.
"""
HEAD_SECONDS = 10.0
"""Maximum seconds for receiving the request line and headers."""
REQUEST_ID = b"x-request-id"
NOT_FOUND = 404
REST_SECONDS = 3.0
"""Maximum seconds for the rest of a body after the response, for instance one that refuses the request."""
UNREAD_SECONDS = 30.0
"""Maximum seconds for which a client may leave a response unread."""
NO_APPLICATION = re.compile(rb"Path '.*' not found\. Ping http://\S+ for available routes\.", re.DOTALL)
"""Text of Serve's 404 for a path without an application."""
NOT_SERVED = ErrorReply(
    status=503, code="unavailable", message="no application is served at the moment; try again", retry_after_seconds=1.0
)
PHRASES = {400: "Bad Request", 431: "Request Header Fields Too Large"}


def middlewares() -> list[Middleware]:
    """Have uvicorn use LimitedProtocol in this process, and return the middleware of its proxy."""
    config.HTTP_PROTOCOLS["auto"] = f"{LimitedProtocol.__module__}:{LimitedProtocol.__qualname__}"
    return [Middleware(RequestIdMiddleware), Middleware(NoApplicationMiddleware)]


class LimitedProtocol(HttpToolsProtocol):
    """An HTTP connection with limits on the size and time of headers and on the number of connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the first request; the arguments are those of HttpToolsProtocol."""
        super().__init__(*args, **kwargs)
        self._head_bytes = self._unparsed_bytes = 0
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None  # for the headers, or for the rest of a body
        self.idle_since = time.monotonic()
        self._next_request = b""  # received before the previous request was answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; if there are too many, close one of them."""
        super().connection_made(transport)
        if sum(not other.transport.is_closing() for other in self.connections) > MAX_CONNECTIONS:
            idle = [other for other in self.connections if isinstance(other, LimitedProtocol) and other.is_idle]
            others = [other for other in idle if other is not self]
            min(others, key=lambda other: other.idle_since, default=self).transport.abort()
        if not transport.is_closing():
            self._start_timer(HEAD_SECONDS)
            _limit_unread(transport)

    @property
    def is_idle(self) -> bool:
        """Return whether the connection waits for a request, without a body or response in progress."""
        return self._in_head and not self._answering and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of a closed connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data. The received part of an incomplete header counts towards the limit.

        Line ends between requests are ignored (RFC 9112, 2.2). Data after a request waits until the request is
        answered, so that slow or invalid data does not affect the response.
        """
        if self._in_head and not self._unparsed_bytes + len(self._next_request) and not data.strip(b"\r\n"):
            return
        if self._answering:
            self._next_request += data
            if len(self._next_request) > MAX_HEADER_BYTES:
                self.flow.pause_reading()  # until the response is complete
            return
        if self._in_head:
            self._unparsed_bytes += len(data)
            if self._timer is None:
                self._start_timer(HEAD_SECONDS)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._unparsed_bytes > MAX_HEADER_BYTES:
            self._refuse(431)
        elif self._in_head and self._timer is None and self.timeout_keep_alive_task is None and not self._answering:
            # the rest of a body after its response; uvicorn has stopped its own timer
            self._start_timer(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """Parse the bytes received in the meantime, and limit the time for the rest of the answered request's body."""
        super().on_response_complete()
        self.idle_since = time.monotonic()
        if not self._in_head and not self.transport.is_closing():
            self._start_timer(REST_SECONDS)
        if self._next_request and not self._answering and not self.transport.is_closing():
            data, self._next_request = self._next_request, b""
            self.data_received(data)

    @property
    def _answering(self) -> bool:
        """Return whether a request was received completely and its response is not complete."""
        return self._in_head and self.cycle is not None and not self.cycle.response_complete

    def on_url(self, url: bytes) -> None:
        """Count the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next request."""
        self._in_head = True
        self._stop_timer()
        self._head_bytes = self._unparsed_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Respond to a request that cannot be parsed, or was refused during parsing."""
        self._refuse(431 if self._head_bytes > MAX_HEADER_BYTES else 400)

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > MAX_HEADER_BYTES:
            raise httptools.HttpParserError("the headers are too large")  # the parser stops; data_received handles it

    def _refuse(self, status: int) -> None:
        self.transport.write(_refusal(status))
        self.transport.close()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _refusal(status: int) -> bytes:
    """Return the response to a request that could not be parsed: JSON, as for all errors."""
    code, message = CODES[status]
    request_id = secrets.token_hex(8)
    body = json.dumps({"code": code, "message": message, "request_id": request_id})
    headers = {"content-type": "application/json", "content-length": len(body), "x-request-id": request_id}
    lines = [f"HTTP/1.1 {status} {PHRASES[status]}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "connection: close", "", body]).encode()


def _limit_unread(transport: asyncio.Transport) -> None:
    """Let the kernel close a connection whose client reads nothing for UNREAD_SECONDS (Linux only)."""
    own = transport.get_extra_info("socket")
    if own is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNREAD_SECONDS))


class RequestIdMiddleware:
    """Middleware around Serve's own that ensures one X-Request-ID per response, and drops invalid ids of clients.

    Serve itself passes on and repeats any value of a client, and appends its header to that of the ingress.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an app."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        ids = [value for name, value in scope["headers"] if name == REQUEST_ID]
        if ids and (len(ids) > 1 or not valid_request_id(ids[0].decode("latin-1"))):
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != REQUEST_ID]}

        async def send_with_one_id(message: Message) -> None:
            await send(_with_one_id(message) if message["type"] == "http.response.start" else message)

        await self.app(scope, receive, send_with_one_id)


def _with_one_id(message: Message) -> Message:
    headers = list(message.get("headers", ()))
    ids = [pair for pair in headers if pair[0].lower() == REQUEST_ID]
    return {**message, "headers": [pair for pair in headers if pair[0].lower() != REQUEST_ID] + ids[:1]}


class NoApplicationMiddleware:
    """Middleware that replaces Serve's 404 for a missing application by a 503 with Retry-After in JSON.

    Serve sends it while gen-ray serve starts or ends. A client would not repeat a request after 404.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an app."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request, and delay the start of a 404 until its text is known."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        delayed: list[Message] = []
        replaced = False

        async def send_or_replace(message: Message) -> None:
            nonlocal replaced
            if replaced:
                return
            if message["type"] == "http.response.start" and message["status"] == NOT_FOUND:
                delayed.append(message)
                return
            if delayed and NO_APPLICATION.fullmatch(message.get("body", b"")):
                replaced = True
                [request_id, *_] = [value for name, value in scope["headers"] if name == REQUEST_ID] or [b"-"]
                return await error_response(NOT_SERVED, request_id.decode("latin-1"))(scope, receive, send)
            while delayed:
                await send(delayed.pop())
            await send(message)

        await self.app(scope, receive, send_or_replace)
