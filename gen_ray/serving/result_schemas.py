"""Schemas of responses, for the OpenAPI document."""

from typing import Any

from pydantic import BaseModel


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
    """Samples: nested lists of stored integers, texts, base64 PNGs in format png, or rows as objects by column."""

    samples: list[Any]
    dtype: str
    """NumPy dtype of the samples in format npz, which has the codes of a table's values."""
    imputed: list[dict[str, dict[str, Any]]] | None = None
    """Of impute with rows of a table: for each row, mean, median, mode and 90 % interval of its missing cells."""


class ScoresSchema(ResultSchema):
    """Likelihoods of the instances; ``notes`` has their kind."""

    bits_per_dim: list[float]
    standard_error: list[float]
    bits: list[float] | None = None
    """Bits of each row of a table."""
    cells: list[dict[str, float | None]] | None = None
    """Bits of each cell of a row by column, null where the value is missing; they add up to the bits of the row."""


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
