"""Limits of Ray Serve's HTTP proxies: connections, headers and request ids, before anything reaches an ingress.

Serve imports ``middlewares`` in each proxy, by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH (see environment.SERVE).
"""

import asyncio
from typing import Any

import httptools
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gen_ray.serving.access import valid_request_id
from gen_ray.serving.protection import MOST_HEADER_BYTES

MOST_CONNECTIONS = 1000
"""Open at a proxy; further ones are closed. The backlog of the system's socket is not counted."""
HEAD_SECONDS = 10.0
"""How long a client may take for the request line and headers."""
REQUEST_ID = b"x-request-id"
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def middlewares() -> list[Middleware]:
    """Have uvicorn use LimitedProtocol in this process, and return the middleware of its proxy."""
    config.HTTP_PROTOCOLS["auto"] = f"{LimitedProtocol.__module__}:{LimitedProtocol.__qualname__}"
    return [Middleware(RequestIdMiddleware)]


class LimitedProtocol(HttpToolsProtocol):
    """A connection whose headers have a limit in bytes and in time; connections beyond a number are closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start before the first request."""
        super().__init__(*args, **kwargs)
        self._head_bytes = self._unparsed_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._next_request = b""  # received before the request in front of it was answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data. A header that has not ended counts with all that was received of it.

        Line ends between requests are ignored (RFC 9112, 2.2). What follows a request waits until that is answered: its
        client may be slow to send the rest, or wrong, without an effect on the answer.
        """
        if self._in_head and not self._unparsed_bytes + len(self._next_request) and not data.strip(b"\r\n"):
            return
        if self._answering:
            self._next_request += data
            if len(self._next_request) > MOST_HEADER_BYTES:
                self.flow.pause_reading()  # until the answer is complete
            return
        if self._in_head:
            self._unparsed_bytes += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        super().data_received(data)
        if self._in_head and self._unparsed_bytes > MOST_HEADER_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_response_complete(self) -> None:
        """Parse the bytes received meanwhile."""
        super().on_response_complete()
        if self._next_request and not self._answering and not self.transport.is_closing():
            data, self._next_request = self._next_request, b""
            self.data_received(data)

    @property
    def _answering(self) -> bool:
        """Return whether a request was received whole and its answer is not complete."""
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
        self._head_bytes = self._unparsed_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, or was refused while it was parsed."""
        if self._head_bytes > MOST_HEADER_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > MOST_HEADER_BYTES:
            raise httptools.HttpParserError("the headers are too large")  # the parser stops; data_received handles it

    def _refuse(self) -> None:
        self.transport.write(TOO_LARGE)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class RequestIdMiddleware:
    """Middleware outside Serve's own: one X-Request-ID on each response, and of a client only a well-formed one.

    Serve passes on and repeats any value of a client, and appends its header to the ingress's.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of an app."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = [value for name, value in scope["headers"] if name == REQUEST_ID]
        if given and (len(given) > 1 or not valid_request_id(given[0].decode("latin-1"))):
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != REQUEST_ID]}

        async def sending(message: Message) -> None:
            await send(_with_one_id(message) if message["type"] == "http.response.start" else message)

        await self.app(scope, receive, sending)


def _with_one_id(message: Message) -> Message:
    headers = list(message.get("headers", ()))
    ids = [pair for pair in headers if pair[0].lower() == REQUEST_ID]
    return {**message, "headers": [pair for pair in headers if pair[0].lower() != REQUEST_ID] + ids[:1]}
