"""Responses of the API as NumPy arrays and named fields."""

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """A result: arrays by name, and the server's metadata."""

    arrays: Mapping[str, np.ndarray]
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

    @property
    def samples(self) -> np.ndarray:
        """Return samples (n, *shape) as stored integers."""
        return self.arrays["samples"]

    @property
    def texts(self) -> list[str]:
        """Return the samples of a text model as strings."""
        return [str(text) for text in self.arrays["texts"]]


@dataclass(frozen=True, kw_only=True)
class ClientPreview:
    """A preview of unfinished samples: images (n, H, W[, 3]) uint8, or texts.

    done and total are the completed and all network evaluations.
    """

    done: int
    total: int
    images: np.ndarray | None = None
    texts: list[str] | None = None


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
    named = {name: metadata[name] for name in ("model", "version", "sampler", "steps", "nfe", "seed", "notes")}
    seconds, request_id = metadata["seconds"], metadata["request_id"]
    return ClientResult(
        arrays=values,
        queued_seconds=seconds["queued"],
        computed_seconds=seconds["computed"],
        request_id=request_id,
        **named,
    )


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
