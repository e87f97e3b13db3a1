"""Response formats: arrays as JSON or .npz; samples also as PNGs, as one PNG grid, as text or as CSV."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from starlette.responses import Response

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import texts
from gen_ray.engine.inference.instances import drawable
from gen_ray.engine.inference.table_rows import GivenRows
from gen_ray.engine.plots import grids
from gen_ray.serving import tables
from gen_ray.serving.service import ErrorReply, JobResult, RequestRefusedError

MASKED_GREY = 128
"""Grey level of undecided places in a preview."""


@dataclass(frozen=True, kw_only=True)
class ResultView:
    """A job's result with what its formatting needs: the model's name, its data spec and the given rows of a table."""

    model: str
    spec: DataSpec
    answer: JobResult
    request_id: str
    given: GivenRows | None = None
    keeps_given: bool = False
    """Whether the samples have the given values; reconstructions do not."""

    @property
    def kept(self) -> GivenRows | None:
        """Return the given rows whose values the samples have."""
        return self.given if self.keeps_given else None

    @property
    def samples(self) -> np.ndarray:
        """Return the samples (n, *shape). Completions of several instances are concatenated."""
        return self.answer.arrays["samples"].reshape(-1, *self.spec.shape)

    def facts(self) -> dict[str, Any]:
        """Return all fields except the arrays."""
        answer = self.answer
        return {
            "model": self.model,
            "version": answer.version,
            "sampler": answer.sampler,
            "steps": answer.steps,
            "nfe": answer.nfe,
            "seed": answer.seed,
            "notes": {**answer.notes, **tables.notes(self.given)},
            "seconds": {"queued": answer.queued_seconds, "computed": answer.computed_seconds},
            "request_id": self.request_id,
        }


@dataclass(frozen=True)
class Format:
    """An output format.

    ``unsuitable`` returns one line on why the format cannot represent a spec's data, or an empty string.
    """

    media_type: str
    write: Callable[[ResultView], bytes]
    unsuitable: Callable[[DataSpec], str]
    headers: bool = True
    """Whether the facts are sent as headers, because the body has no place for them."""


def respond(result: ResultView, name: str) -> Response:
    """Return the response in a format. Raise RequestRefusedError 500 for NaN, infinite or out-of-range values."""
    check_values(result)
    form = FORMATS[name]
    return Response(form.write(result), media_type=form.media_type, headers=_headers(result) if form.headers else None)


def check_values(result: ResultView) -> None:
    """Raise RequestRefusedError 500 if an array has values that are not finite, or samples outside {0 … levels−1}.

    Otherwise such samples would be shown as black pictures.
    """
    for name, array in result.answer.arrays.items():
        levels = result.spec.cardinalities if result.spec.is_table else result.spec.levels
        if not np.isfinite(array).all() or (name == "samples" and ((array < 0) | (array >= levels)).any()):
            raise RequestRefusedError(
                ErrorReply(
                    status=500,
                    code="not_finite",
                    message=f"the model returned {name} with values that are not finite or out of range",
                )
            )


def result_json(result: ResultView, name: str) -> dict[str, Any]:
    """Return a result in format json or png as an object that can be serialised to JSON."""
    others = {key: array.tolist() for key, array in result.answer.arrays.items() if key != "samples"}
    if "bits" in others and result.given is not None:
        others |= tables.bits_json(result.answer.arrays, result.spec, result.given)
    samples: dict[str, Any] = {}
    if "samples" in result.answer.arrays:
        samples = {"dtype": result.samples.dtype.name, "samples": _listed(result, name)}
    imputed = {"imputed": list(result.answer.imputed)} if result.answer.imputed else {}
    return {**result.facts(), **samples, **imputed, **others}


def _listed(result: ResultView, name: str) -> list[Any]:
    """Return the samples as items of a JSON list."""
    if result.spec.is_table:
        return tables.sampled_objects(result.samples, result.answer.seed, result.spec, result.kept)
    return {"png": _drawn, "json": sample_lists}[name](result.samples, result.spec)


def encode_png(sample: np.ndarray, *, levels: int) -> bytes:
    """Return a PNG of one example (C, H, W) in {0 … levels−1} with 1 or 3 channels; −1 becomes mid-grey."""
    grey = np.where(sample < 0, MASKED_GREY, np.rint(sample * (255 / (levels - 1)))).astype(np.uint8)
    return grids.png(grey.transpose(1, 2, 0) if len(grey) > 1 else grey[0])


def encode_pictures(samples: np.ndarray, *, levels: int) -> list[str]:
    """Return base64 PNGs of samples (N, C, H, W)."""
    return [base64.b64encode(encode_png(sample, levels=levels)).decode() for sample in samples]


def encode_grid(samples: np.ndarray, *, levels: int) -> bytes:
    """Return one PNG with samples (N, C, H, W) in a grid."""
    return grids.png(grids.grid(torch.from_numpy(samples), levels=levels))


def sample_lists(samples: np.ndarray, spec: DataSpec) -> list[Any]:
    """Return samples (n, *shape) as strings if the data are texts, otherwise as nested lists."""
    if spec.is_text:
        return [texts.decode_tokens(torch.from_numpy(tokens), spec) for tokens in samples]
    listed: list[Any] = samples.tolist()
    return listed


def _drawn(samples: np.ndarray, spec: DataSpec) -> list[Any]:
    return list(encode_pictures(samples, levels=spec.levels))


def _json(name: str) -> Callable[[ResultView], bytes]:
    return lambda result: json.dumps(result_json(result, name), allow_nan=False, separators=(",", ":")).encode()


def _npz(result: ResultView) -> bytes:
    file, arrays = io.BytesIO(), dict(result.answer.arrays)
    if "samples" in arrays:
        arrays["samples"] = result.samples
        if result.spec.is_text:
            arrays["texts"] = np.array(sample_lists(result.samples, result.spec), dtype=np.str_)
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _grid(result: ResultView) -> bytes:
    return encode_grid(result.samples, levels=result.spec.levels)


def _text(result: ResultView) -> bytes:
    return texts.page(torch.from_numpy(result.samples), result.spec).encode()


def _csv(result: ResultView) -> bytes:
    spec, given, arrays = result.spec, result.given, result.answer.arrays
    if "bits" in arrays and given is not None:
        return tables.csv_text(tables.bits_of(arrays, spec, given), spec, given, keeps_given=False)
    rows = tables.sampled_rows(result.samples, result.answer.seed, spec, result.kept)
    return tables.csv_text(rows, spec, given, keeps_given=result.keeps_given)


def _headers(result: ResultView) -> Mapping[str, str]:
    facts = result.facts()
    seconds = facts.pop("seconds")
    facts["notes"] = tables.notes_for_header(facts["notes"])
    flat = {**facts, "queued_seconds": seconds["queued"], "computed_seconds": seconds["computed"]}
    del flat["request_id"]  # every response has it as X-Request-ID
    return {f"X-GenRay-{name.replace('_', '-').title()}": _ascii(value) for name, value in flat.items()}


def _ascii(value: Any) -> str:
    """Return a printable ASCII string unchanged, and other values as JSON, which is valid in a header."""
    plain = isinstance(value, str) and value.isascii() and value.isprintable()
    return value if plain else json.dumps(value)


def _any(spec: DataSpec) -> str:
    return ""


def _pictures(spec: DataSpec) -> str:
    if drawable(spec):
        return ""
    others = "json, text or npz" if spec.is_text else "json, csv or npz" if spec.is_table else "json or npz"
    return f"the model's samples are not pictures of 1 or 3 channels; ask for {others}"


def _texts(spec: DataSpec) -> str:
    if spec.is_text:
        return ""
    others = "json, png, grid or npz" if drawable(spec) else "json, csv or npz" if spec.is_table else "json or npz"
    return f"the model's samples are not texts; ask for {others}"


def _tables(spec: DataSpec) -> str:
    return "" if spec.is_table else "the model's samples are not rows of a table; ask for another format"


FORMATS: Mapping[str, Format] = {
    "json": Format("application/json", _json("json"), _any, headers=False),
    "png": Format("application/json", _json("png"), _pictures, headers=False),
    "grid": Format("image/png", _grid, _pictures),
    "npz": Format("application/octet-stream", _npz, _any),
    "text": Format("text/plain", _text, _texts),
    "csv": Format("text/csv", _csv, _tables),
}
