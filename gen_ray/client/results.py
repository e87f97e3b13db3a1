"""Responses of the API as NumPy arrays and named fields."""

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

Row = Mapping[str, Any]
"""A row of a table: values by column, None where a value is missing; dates and times are ISO 8601."""


@dataclass(frozen=True, kw_only=True)
class ResultFacts:
    """The server's metadata of a result."""

    model: str
    version: str
    sampler: str | None
    steps: int | None
    nfe: int
    seed: int
    queued_seconds: float
    computed_seconds: float
    request_id: str
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClientResult(ResultFacts):
    """A result: arrays by name, and the server's metadata."""

    arrays: Mapping[str, np.ndarray]

    @property
    def samples(self) -> np.ndarray:
        """Return samples (n, *shape) as stored integers."""
        return self.arrays["samples"]

    @property
    def texts(self) -> list[str]:
        """Return the samples of a text model as strings."""
        return [str(text) for text in self.arrays["texts"]]


@dataclass(frozen=True, kw_only=True)
class ClientRows(ResultFacts):
    """A result of a table's model.

    rows: samples, or completions, of which those of one row follow each other. imputed: for each row of impute_rows,
    the mean, median, mode and 90 % interval (low, high) of its missing cells by column. bits and bits_per_dim (N,), and
    cells, the bits of each cell by column: of score_rows.
    """

    rows: Sequence[Row] = ()
    imputed: Sequence[Mapping[str, Row]] = ()
    bits: Sequence[float] = ()
    bits_per_dim: Sequence[float] = ()
    cells: Sequence[Mapping[str, float | None]] = ()


@dataclass(frozen=True, kw_only=True)
class ClientPreview:
    """A preview of unfinished samples: images (n, H, W[, 3]) uint8, texts, or rows with None where undecided.

    done and total are the completed and all network evaluations.
    """

    done: int
    total: int
    images: np.ndarray | None = None
    texts: list[str] | None = None
    rows: Sequence[Row] | None = None


def facts(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata in the X-GenRay-… headers of a response whose body is not JSON."""
    prefix = "x-genray-"
    fields = {name.lower().removeprefix(prefix).replace("-", "_"): value for name, value in headers.items()}
    numbers = {name: json.loads(fields[name]) for name in ("steps", "nfe", "seed", "notes")}
    names = {name: _name(fields[name]) for name in ("model", "version", "sampler")}
    seconds = {name: float(fields[f"{name}_seconds"]) for name in ("queued", "computed")}
    return {**numbers, **names, "seconds": seconds, "request_id": headers["X-Request-ID"]}


def result(metadata: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> ClientResult:
    """Return a result from its metadata and its arrays, each of n rows."""
    return ClientResult(arrays=values, **_metadata(metadata))


def rows_result(data: Mapping[str, Any]) -> ClientRows:
    """Return the result of a table's model from a JSON response."""
    names = ("imputed", "bits", "bits_per_dim", "cells")
    found = {name: data[name] for name in names if name in data}
    return ClientRows(rows=data.get("samples", ()), **found, **_metadata(data))


def has_rows(data: Mapping[str, Any]) -> bool:
    """Return whether a result has rows of a table."""
    return bool(data["samples"]) and isinstance(data["samples"][0], Mapping)


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ResultFacts."""
    named = {name: metadata[name] for name in ("model", "version", "sampler", "steps", "nfe", "seed", "notes")}
    seconds = {f"{name}_seconds": metadata["seconds"][name] for name in ("queued", "computed")}
    return {**named, **seconds, "request_id": metadata["request_id"]}


def arrays(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the ``samples`` (n, *shape) of a stream's result event with the dtype of format npz, or ``texts`` (n,)."""
    samples = data["samples"]
    if samples and isinstance(samples[0], str):
        return {"texts": np.array(samples, dtype=np.str_)}
    return {"samples": np.array(samples, dtype=data.get("dtype"))}


def preview(data: Mapping[str, Any]) -> ClientPreview:
    """Return the preview of a preview event."""
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image)), formats=("PNG",)))
        for image in data.get("images", [])
    ]
    return ClientPreview(
        done=data["done"],
        total=data["total"],
        images=np.stack(images) if images else None,
        texts=data.get("texts"),
        rows=data["samples"] if "samples" in data and has_rows(data) else None,
    )


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and data of server-sent events. Lines that start with a colon are heartbeats and are skipped."""
    name = ""
    for line in lines:
        kind, _, value = line.decode().partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)


def _name(value: str) -> str | None:
    """Decode a name of a header: JSON null or a JSON string, otherwise the value unchanged."""
    name: str | None = json.loads(value) if value == "null" or value.startswith('"') else value
    return name
