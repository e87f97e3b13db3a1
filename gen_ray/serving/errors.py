"""Error responses: one body format for all errors. It never repeats data of the request."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from gen_ray.serving.service import ErrorReply, RequestRefusedError
from gen_ray.serving.validation import describe

MAX_MESSAGE_CHARACTERS = 900
"""Maximum characters of a message: with four bytes each, the body stays below 4 KB."""

UNEXPECTED = ErrorReply(
    status=500, code="internal", message="internal error; the server's log has details under the same request_id"
)

TOO_LARGE_FOR_MEMORY = ErrorReply(
    status=413, code="too_large", message="the request needs more memory than the server has; ask for less at once"
)

CODES: Mapping[int, tuple[str, str]] = {
    400: ("malformed", "the request cannot be read"),
    401: ("unauthorized", "a key is needed: send Authorization: Bearer KEY"),
    403: ("forbidden", "a page of another origin may not do this"),
    404: ("not_found", "no such path; /openapi.json lists the paths"),
    405: ("method_not_allowed", "the path does not support this method; the Allow header lists the supported methods"),
    408: ("too_slow", "the body arrived too slowly"),
    413: ("too_large", "the body is too large"),
    415: ("not_json", "send JSON, with Content-Type: application/json"),
    421: ("wrong_host", "the Host header does not name this server"),
    422: ("invalid", "a field is wrong, or asks for what the model cannot do"),
    431: ("headers_too_large", "the headers are too large"),
    429: ("busy", "the server is busy; try again after Retry-After seconds"),
    499: ("cancelled", "the client disconnected"),
    500: ("internal", UNEXPECTED.message),
    503: ("unavailable", "the model is not ready"),
    504: ("deadline", "the result was not ready before the deadline"),
}


class ErrorBody(BaseModel):
    """The body of every error."""

    code: str
    """A fixed identifier for programs."""
    message: str
    """One line for people: the problem and the remedy."""
    request_id: str


def invalid_request(message: str, *, code: str = "invalid") -> RequestRefusedError:
    """Return the 422 error of an invalid request."""
    return RequestRefusedError(ErrorReply(status=422, code=code, message=message))


def http_error(status: int, message: str | None = None) -> RequestRefusedError:
    """Return the error of an HTTP status, with its default message or another."""
    code, usual = CODES[status]
    return RequestRefusedError(ErrorReply(status=status, code=code, message=message or usual))


def error_body(refusal: ErrorReply, request_id: str) -> dict[str, str]:
    """Return the body of an error. The message is one line of limited length and valid UTF-8."""
    message = " ".join(refusal.message.encode("utf-8", "replace").decode().split())[:MAX_MESSAGE_CHARACTERS]
    return {"code": refusal.code, "message": message, "request_id": request_id}


def error_response(refusal: ErrorReply, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response of an error; 429 always has Retry-After, in whole seconds."""
    further = dict(headers or {})
    if refusal.status == 429 or refusal.retry_after_seconds is not None:
        further["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_seconds or 1)))
    if refusal.status == 401:
        further["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(refusal, request_id), refusal.status, further)


def openapi_errors(statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses for the OpenAPI document."""
    return {status: {"model": ErrorBody, "description": CODES[status][1]} for status in statuses}


def install_handlers(app: FastAPI) -> None:
    """Give the framework's own errors the error body of this module."""
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    raise invalid_request(describe(error.errors()))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, message = CODES.get(error.status_code, ("refused", HTTPStatus(error.status_code).phrase))
    refusal = ErrorReply(status=error.status_code, code=code, message=message)
    return error_response(refusal, request.scope["gen_ray.record"].request_id, error.headers)
