"""The outermost middleware: request ids, the access log, and a JSON error for every uncaught exception."""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gen_ray.serving.errors import TOO_LARGE_FOR_MEMORY, UNEXPECTED, error_response, http_error
from gen_ray.serving.service import ErrorReply, RequestRefusedError

ACCESS_LOG = logging.getLogger("gen_ray.access")
ERROR_LOG = logging.getLogger("gen_ray.serving")
NO_KEY = "-"
DEFAULT_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


@dataclass
class AccessRecord:
    """The data of one access log line, filled in while a request is processed."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    key: str = NO_KEY
    status: int = 0
    bytes_out: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts about the work: model, version, seed, nfe; and the code of an error."""

    def line(self, scope: Scope) -> str:
        """Return the log line as JSON. The path is the route's template, because logs must not hold client input."""
        fields = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "key": self.key,
            "method": scope["method"] if scope["method"] in METHODS else "-",
            "path": getattr(scope.get("route"), "path", "-"),
            "status": self.status,
            "ms": round((time.monotonic() - self.started) * 1000, 1),
            **dict.fromkeys(("model", "version", "seed", "nfe")),
            **self.facts,
            "bytes_out": self.bytes_out,
        }
        return json.dumps(fields)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def record_of(scope: MutableMapping[str, Any]) -> AccessRecord:
    """Return the access record of the request of a scope."""
    record: AccessRecord = scope["gen_ray.record"]
    return record


class AccessLogMiddleware:
    """Middleware that adds the request id and default headers, logs each request, and answers exceptions."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an app."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process an HTTP request. Lifespan events are passed on; WebSocket connections are closed."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        record = scope["gen_ray.record"] = AccessRecord(_request_id(scope))

        async def send_and_log(message: Message) -> None:
            await send(_log_unexpected(message, record))

        try:
            await self._guarded(scope, receive, send_and_log, record)
        finally:
            ACCESS_LOG.info("%s", record.line(scope))

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, record: AccessRecord) -> None:
        try:
            await self.app(scope, receive, send)
            return
        except asyncio.CancelledError:  # Serve cancels the requests of clients that have disconnected
            gone = http_error(499).refusal
            record.status, record.facts["code"] = record.status or gone.status, gone.code
            raise
        except Exception as error:
            refusal = log_error(error, record)
        if not record.status:  # otherwise the response has started and can only be broken off
            await error_response(refusal, record.request_id)(scope, receive, send)


def log_error(error: Exception, record: AccessRecord) -> ErrorReply:
    """Log an error and return its reply. Unexpected errors are logged with their traceback."""
    if isinstance(error, RequestRefusedError):
        refusal = error.refusal
    elif isinstance(error, MemoryError):
        ERROR_LOG.error("request %s needs too much memory", record.request_id)
        refusal = TOO_LARGE_FOR_MEMORY
    else:
        ERROR_LOG.error("request %s failed", record.request_id, exc_info=error)
        refusal = UNEXPECTED
    record.facts["code"] = refusal.code
    return refusal


def _log_unexpected(message: Message, record: AccessRecord) -> Message:
    if message["type"] == "http.response.start":
        record.status = message["status"]
        headers: Mapping[str, str] = {"x-request-id": record.request_id, **DEFAULT_HEADERS}
        added = [(name.encode(), value.encode()) for name, value in headers.items()]
        others = [(name, value) for name, value in message.get("headers", ()) if name.decode().lower() not in headers]
        return {**message, "headers": [*others, *added]}
    record.bytes_out += len(message.get("body", b""))
    return message


def valid_request_id(value: str) -> bool:
    """Return whether a client's request id is safe to repeat in headers and logs."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value) is not None


def _request_id(scope: Scope) -> str:
    ids = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"]
    return ids[0] if len(ids) == 1 and valid_request_id(ids[0]) else secrets.token_hex(8)
