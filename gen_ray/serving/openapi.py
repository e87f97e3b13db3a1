"""Response schemas of the OpenAPI document."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from gen_ray.serving.errors import openapi_errors

ERRORS = (400, 401, 403, 404, 413, 415, 421, 422, 429, 499, 500, 503, 504)
READING_ERRORS = (400, 401, 404, 413, 421, 422, 500, 503)
WITH_KEY = (Security(HTTPBearer(auto_error=False, description="A key of GEN_RAY_API_KEYS.")),)
"""Only for the document: KeyMiddleware checks keys before the routes."""
BINARY = {"schema": {"type": "string", "format": "binary"}}


class DurationsSchema(BaseModel):
    """Seconds that a request was queued and computed."""

    queued: float
    computed: float


class ResultSchema(BaseModel):
    """Metadata of every result; sent as X-GenRay-… headers if the body is not JSON."""

    model: str
    version: str
    sampler: str | None
    steps: int | None
    nfe: int
    """Network evaluations."""
    seed: int
    """Seed of the result; the same request with this seed gets the same samples."""
    notes: dict[str, Any]
    seconds: DurationsSchema
    request_id: str


class SamplesSchema(ResultSchema):
    """Samples: nested lists of stored integers, texts, or base64 PNGs in format png."""

    samples: list[Any]
    dtype: str
    """NumPy dtype of the samples in format npz."""


class ScoresSchema(ResultSchema):
    """Likelihoods of the instances; ``notes`` has their kind."""

    bits_per_dim: list[float]
    standard_error: list[float]


class LatentsSchema(ResultSchema):
    """Means and log-variances of the instances' latent variables."""

    mu: list[list[float]]
    log_var: list[list[float]]


class ModelsSchema(BaseModel):
    """The served models. A model that does not respond has only id, ready and trouble."""

    data: list[dict[str, Any]]


class HealthSchema(BaseModel):
    """State of the server."""

    status: str


def responses(result: type[ResultSchema], media_types: Iterable[str], *, stream: bool) -> dict[int | str, Any]:
    """Return the responses of a verb: 200 in the media types of its formats, and all errors."""
    media = {kind: MEDIA[kind] for kind in media_types}
    events = {"text/event-stream": {"itemSchema": EVENT}} if stream else {}
    content = {"application/json": {}, **media, **events}  # readers take the first as the default
    return {200: {"model": result, "content": content}, **openapi_errors(ERRORS)}


EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["preview", "result", "error"]},
        "data": {
            "type": "string",
            "description": "JSON: {done, total, images|texts|samples}; a result; {code, message, request_id, status}",
        },
    },
    "required": ["event", "data"],
}
MEDIA: Mapping[str, Mapping[str, Any]] = {
    "application/json": {},
    "application/octet-stream": BINARY,
    "image/png": BINARY,
    "text/plain": {"schema": {"type": "string"}},
}
