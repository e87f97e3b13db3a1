"""What the API answers, as numpy arrays and named facts."""

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
    """An answer: arrays by name, and what the server says of it."""

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
        """Return samples (n, *shape), stored integers."""
        return self.arrays["samples"]

    @property
    def texts(self) -> list[str]:
        """Return samples as texts, of a model of texts."""
        return [str(text) for text in self.arrays["texts"]]


@dataclass(frozen=True, kw_only=True)
class ClientPreview:
    """A look at samples under way: images (n, H, W[, 3]) uint8, or texts, with done of total evaluations done."""

    done: int
    total: int
    images: np.ndarray | None = None
    texts: list[str] | None = None


def facts(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return what X-GenRay-… headers say of an answer whose body is no JSON."""
    prefix = "x-genray-"
    told = {name.lower().removeprefix(prefix).replace("-", "_"): value for name, value in headers.items()}
    numbers = {name: json.loads(told[name]) for name in ("steps", "nfe", "seed", "notes")}
    names = {name: _name(told[name]) for name in ("model", "version", "sampler")}
    seconds = {name: float(told[f"{name}_seconds"]) for name in ("queued", "computed")}
    return {**numbers, **names, "seconds": seconds, "request_id": headers["X-Request-ID"]}


def result(said: Mapping[str, Any], held: Mapping[str, np.ndarray]) -> ClientResult:
    """Return an answer, from what is said of it and its arrays."""
    named = {name: said[name] for name in ("model", "version", "sampler", "steps", "nfe", "seed", "notes")}
    seconds, request_id = said["seconds"], said["request_id"]
    return ClientResult(
        arrays=held,
        queued_seconds=seconds["queued"],
        computed_seconds=seconds["computed"],
        request_id=request_id,
        **named,
    )


def arrays(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the samples of the last event of a stream, of the type that format npz has, or their texts."""
    samples = data["samples"]
    if samples and isinstance(samples[0], str):
        return {"texts": np.array(samples, dtype=np.str_)}
    return {"samples": np.array(samples, dtype=data.get("dtype"))}


def preview(data: Mapping[str, Any]) -> ClientPreview:
    """Return the preview in an event."""
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
    """Yield name and data of server-sent events; lines that begin with a colon only say that somebody is there."""
    name = ""
    for line in lines:
        kind, _, value = line.decode().partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)


def _name(value: str) -> str | None:
    """Return a name as it is, unless it had to be put into JSON to fit into a header."""
    name: str | None = json.loads(value) if value == "null" or value.startswith('"') else value
    return name
