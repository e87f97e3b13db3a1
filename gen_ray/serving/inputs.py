"""Conversion of a request's body: strict JSON, then pictures, lists, texts, rows, masks and latent vectors to arrays.

Input that Python's JSON parser tolerates or fails on is refused. Types, lengths and ranges are checked before any array
is created, and the size of a picture before it is decoded. The functions that return arrays raise InstanceError, which
the handler answers with 422.
"""

import base64
import binascii
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from fastapi import Request, Response
from fastapi.routing import APIRoute
from PIL import ImageFile

from gen_ray.datasets import images
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import instances
from gen_ray.engine.inference.instances import InstanceError
from gen_ray.engine.inference.rows.conditions import ConditionError, RowConditions, add_condition
from gen_ray.engine.inference.table_rows import GivenRows, cell_text, conditions_row, expected, parse_csv, parse_objects
from gen_ray.maths.levels import stored
from gen_ray.serving.errors import http_error

LARGEST_LATENT = 1e6
"""Maximum absolute value of a latent coordinate."""


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
            return await handle(_Read(request, parse_json(body) if body else {}))

        return handling


def parse_json(body: bytes) -> Any:
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


def from_pictures(
    texts: Sequence[str],
    spec: DataSpec,
    field: str,
    *,
    pixels: int,
    resize: bool,
    background: images.Colour = images.WHITE,
) -> np.ndarray:
    """Return base64 pictures as stored data (N, C, H, W); transparent pixels get the background colour.

    pixels is the maximum of each picture, and of all together.
    """
    if not instances.drawable(spec):
        instead = "rows or csv" if spec.is_table else "x"
        raise InstanceError(field, f"the model's data are not pictures of 1 or 3 channels; send {instead}")
    opened = [(_open_picture(text, name, pixels), name) for text, name in zip(texts, _names(texts, field), strict=True)]
    if sum(picture.width * picture.height for picture, _ in opened) > pixels:
        raise InstanceError(field, f"the pictures have more than {pixels} pixels together", too_large=True)
    parsed = [
        instances.parse_picture(picture, spec, name, resize=resize, background=background) for picture, name in opened
    ]
    return torch.cat(parsed).numpy()


def from_lists(x: Sequence[Any], spec: DataSpec, *, many: bool) -> np.ndarray:
    """Return nested lists of stored integers as an array (N, *shape), or of one example as (1, *shape)."""
    if spec.is_table:
        raise InstanceError("x", "the model's data are rows of a table; send rows or csv")
    shapes = [spec.shape, spec.shape[1:]] if spec.is_image and spec.shape[0] == 1 else [spec.shape]
    accepted = [(-1, *shape) if many else shape for shape in reversed(shapes)]
    array = _integers(x, accepted, spec.levels, "x").reshape(-1, *spec.shape)
    return stored(torch.from_numpy(array), spec.levels).numpy()


def from_texts(texts: Sequence[str], spec: DataSpec, field: str) -> np.ndarray:
    """Return texts as tokens (N, L)."""
    _check_text(spec, field)
    rows = [instances.parse_text(text, spec, name) for text, name in zip(texts, _names(texts, field), strict=True)]
    return torch.cat(rows).numpy()


def from_rows(rows: Sequence[Any] | None, csv: str | None, spec: DataSpec, *, most: int) -> GivenRows | None:
    """Return the rows of a table as JSON objects, or as CSV of at most that many rows; None if there are neither."""
    if rows is None and csv is None:
        return None
    if not spec.is_table:
        raise InstanceError("csv" if rows is None else "rows", "the model's data are not rows of a table")
    return parse_objects(rows or [], spec, "rows") if csv is None else parse_csv(csv, spec, "csv", most=most)


def from_conditions(where: Mapping[str, Any], spec: DataSpec) -> GivenRows:
    """Return the conditions on columns: a JSON value, or a text as ``gen-ray sample --where`` has it after NAME=."""
    if not spec.is_table:
        raise InstanceError("where", "the model's data are not rows of a table")
    made, columns = RowConditions(), {column.name: column for column in spec.columns}
    for name, value in where.items():
        text = cell_text(value, columns[name]) if name in columns else ""
        if text is None:
            kind = expected(columns[name])
            raise InstanceError("where", f"column {name!r} must be {kind}, or a text LOW..HIGH or A|B")
        try:
            add_condition(made, name, text.strip(), spec)
        except ConditionError as error:
            raise InstanceError("where", error.reason) from None
    return conditions_row(made, spec)


def from_masked_text(text: str, hole: str, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (1, L) and a mask (1, L), True where known, of a text with hole characters.

    A text shorter than L is padded with missing characters.
    """
    _check_text(spec, "text")
    tokens, missing = instances.parse_masked_text(text, spec, hole)
    return tokens.numpy(), ~missing.numpy()


def from_mask(mask: str | Sequence[Any], spec: DataSpec, *, pixels: int, resize: bool) -> np.ndarray:
    """Return a mask (1, *shape), True where data are known, from a picture or from lists.

    In the request white, or 1, marks what is missing.
    """
    missing = _mask_from_picture(mask, spec, pixels, resize) if isinstance(mask, str) else _mask_from_lists(mask, spec)
    return ~instances.parse_missing(torch.from_numpy(missing), spec, "mask").numpy()


def from_latents(z: Sequence[Any], width: int | None) -> np.ndarray:
    """Return latent vectors (N, Z) as float32."""
    if not _fits(z, (-1, width or 0)):
        raise InstanceError("z", f"must be lists of {width or 0} numbers each")
    flat, most = _flat(list(z), 2), LARGEST_LATENT
    if not set(map(type, flat)) <= {int, float} or not all(-most <= number <= most for number in flat):
        raise InstanceError("z", f"must hold only numbers from {-most:g} to {most:g}")
    return np.array(z, dtype=np.float32)


def _names(items: Sequence[Any], field: str) -> list[str]:
    return [f"{field}.{place}" for place in range(len(items))] if len(items) > 1 else [field]


def _open_picture(text: str, field: str, pixels: int) -> ImageFile.ImageFile:
    """Open a base64 picture and read its header, without decoding pixels."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InstanceError(field, "is not base64 of a picture file (no URL, no data: prefix)") from None
    with instances.picture_errors(field):
        return images.opened(data, max_pixels=pixels)


def _mask_from_picture(mask: str, spec: DataSpec, pixels: int, resize: bool) -> np.ndarray:
    if not spec.is_image:
        raise InstanceError("mask", "the model's data are not pictures; send nested lists of 0 and 1")
    plain = instances.mask_spec(spec)
    return from_pictures([mask], plain, "mask", pixels=pixels, resize=resize, background=images.BLACK)


def _mask_from_lists(mask: Sequence[Any], spec: DataSpec) -> np.ndarray:
    shapes = [spec.shape[1:], spec.shape] if spec.is_image else [spec.shape]
    return _integers(mask, shapes, 2, "mask")


def _check_text(spec: DataSpec, field: str) -> None:
    if not spec.is_text:
        raise InstanceError(field, "the model's data are not texts")


def _integers(value: Any, shapes: Sequence[Sequence[int]], levels: int, field: str) -> np.ndarray:
    """Return nested lists of integers in {0 … levels−1} as an int64 array of one of the shapes.

    A length of −1 matches any length.
    """
    if not any(_fits(value, shape) for shape in shapes):
        raise InstanceError(field, f"must be nested lists of shape {_shape_text(shapes[-1])}")
    flat = _flat(value, len(next(shape for shape in shapes if _fits(value, shape))))
    kinds = set(map(type, flat))
    if not (kinds <= {int} or (levels == 2 and kinds <= {int, bool})) or min(flat) < 0 or max(flat) >= levels:
        allowed = "0 and 1, or only false and true" if levels == 2 else f"whole numbers from 0 to {levels - 1}"
        raise InstanceError(field, f"must hold only {allowed}")
    return np.array(value, dtype=np.int64)


def _fits(value: Any, shape: Sequence[int]) -> bool:
    """Return whether value is nested lists of this shape. Stops at the first list of another length."""
    if not shape:
        return not isinstance(value, list)
    if not isinstance(value, list) or not value or len(value) != (len(value) if shape[0] < 0 else shape[0]):
        return False
    return all(_fits(part, shape[1:]) for part in value) if len(shape) > 1 else True


def _flat(value: list[Any], depth: int) -> list[Any]:
    for _ in range(depth - 1):
        value = [item for part in value for item in part]
    return value


def _shape_text(shape: Sequence[int]) -> str:
    lengths = ["N" if length < 0 else str(length) for length in shape]
    return f"({', '.join(lengths)}{',' if len(lengths) == 1 else ''})"
