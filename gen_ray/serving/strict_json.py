"""Strict JSON bodies: input that Python's parser tolerates or fails on is refused as an error of the client."""

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gen_ray.serving.errors import http_error


class _Read(Request):
    """A request whose body has been read."""

    def __init__(self, request: Request, value: Any) -> None:
        headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
        plain = [*headers, (b"content-type", b"application/json")]
        super().__init__({**request.scope, "headers": plain}, request.receive)
        self.value = value

    async def body(self) -> bytes:
        return b"{}"

    async def json(self) -> Any:
        return self.value


class JsonRoute(APIRoute):
    """A route that parses its body strictly. A missing body is an empty object."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which raises RequestRefusedError 400 or 415."""
        handle = super().get_route_handler()

        async def handling(request: Request) -> Response:
            if request.method != "POST":
                return await handle(request)
            body = await request.body()
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if body and kind != "application/json":
                raise http_error(415)
            return await handle(_Read(request, read(body) if body else {}))

        return handling


def read(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raise RequestRefusedError 400, also for NaN, Infinity, duplicate keys and lone surrogates.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
        if "\\u" in text:  # a lone surrogate can only come from an escape
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise http_error(400, "the body is not valid UTF-8, or contains a lone surrogate") from None
    except RecursionError:
        raise http_error(400, "the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise http_error(400, f"the body is not JSON (at character {error.pos})") from None
    except ValueError as error:
        raise http_error(400, f"the body is not JSON that can be used: {_reason(error)}") from None
    return value


class _JsonFaultError(ValueError):
    """An error whose message is from this module and does not repeat the body."""


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _JsonFaultError) else "a number has too many digits"


def _no_number(constant: str) -> NoReturn:
    raise _JsonFaultError("NaN and Infinity are not valid JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _JsonFaultError("an object has the same key twice")
    return value
