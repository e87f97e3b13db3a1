"""What the OpenAPI document says of responses, in the words of those who write programs against it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from gen_ray.serving.errors import openapi_errors

ERRORS = (400, 401, 403, 404, 413, 415, 421, 422, 429, 499, 500, 503, 504)
READING_ERRORS = (400, 401, 404, 413, 421, 422, 500, 503)
WITH_KEY = (Security(HTTPBearer(auto_error=False, description="A key of GEN_RAY_API_KEYS.")),)
"""For the document alone: keys are looked at before any route is."""
BINARY = {"schema": {"type": "string", "format": "binary"}}


class DurationsSchema(BaseModel):
    """How long a request took."""

    queued: float
    computed: float


class ResultSchema(BaseModel):
    """What every answer says of itself; sent as X-GenRay-… headers where the body is no JSON."""

    model: str
    version: str
    sampler: str | None
    steps: int | None
    nfe: int
    """Network evaluations."""
    seed: int
    """The same request with this seed gets the same answer."""
    notes: dict[str, Any]
    seconds: DurationsSchema
    request_id: str


class SamplesSchema(ResultSchema):
    """Samples as nested lists of stored integers, as texts, or, in format png, as base64 PNGs."""

    samples: list[Any]
    dtype: str
    """numpy's name of the type that the samples have in format npz."""


class ScoresSchema(ResultSchema):
    """Likelihoods of the instances; notes tell their kind."""

    bits_per_dim: list[float]
    standard_error: list[float]


class LatentsSchema(ResultSchema):
    """Means and logarithms of variances of the instances' latent variables."""

    mu: list[list[float]]
    log_var: list[list[float]]


class ModelsSchema(BaseModel):
    """The models served here; of one that does not answer only id, ready and trouble are known."""

    data: list[dict[str, Any]]


class HealthSchema(BaseModel):
    """How the server is."""

    status: str


def responses(model: type[BaseModel], *, others: Sequence[str] = (), stream: bool = False) -> dict[int | str, Any]:
    """Return the responses of a verb: 200 in JSON and in other media types, and every error."""
    media: Mapping[str, Any] = {kind: OTHERS[kind] for kind in others}
    events = {"text/event-stream": {"itemSchema": EVENT}} if stream else {}
    content = {"application/json": {}, **media, **events}  # readers take the first for the usual one
    return {200: {"model": model, "content": content}, **openapi_errors(ERRORS)}


EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["preview", "result", "error"]},
        "data": {
            "type": "string",
            "description": "JSON: {done, total, images|texts|samples}; an answer; {code, message, request_id, status}",
        },
    },
    "required": ["event", "data"],
}
OTHERS = {
    "application/octet-stream": BINARY,
    "image/png": BINARY,
    "text/plain": {"schema": {"type": "string"}},
}
