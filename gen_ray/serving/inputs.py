"""Conversion of a request's pictures, nested lists, texts, masks and latent vectors to arrays of stored data.

Types, lengths and ranges are checked before any array is created, and the size of a picture before it is decoded.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import ImageFile

from gen_ray.datasets import images
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import instances
from gen_ray.serving.errors import invalid_request

LARGEST_LATENT = 1e6
"""Maximum absolute value of a latent coordinate."""


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

    Raise RequestRefusedError 422.
    """
    if not drawable(spec):
        raise invalid_request(f"{field}: the model's data are not pictures of 1 or 3 channels; send x")
    names = [f"{field}.{place}" for place in range(len(texts))] if len(texts) > 1 else [field]
    opened = [open_picture(text, name, pixels=pixels) for text, name in zip(texts, names, strict=True)]
    check_pixels(opened, pixels=pixels)
    decoded = [
        decode_picture(picture, spec, name, resize=resize, background=background)
        for picture, name in zip(opened, names, strict=True)
    ]
    return np.stack(decoded)


def from_lists(x: Sequence[Any], spec: DataSpec, *, many: bool) -> np.ndarray:
    """Return nested lists of stored integers as an array (N, *shape), or of one example as (1, *shape).

    Raise RequestRefusedError 422.
    """
    shapes = [spec.shape, spec.shape[1:]] if spec.is_image and spec.shape[0] == 1 else [spec.shape]
    accepted = [(-1, *shape) if many else shape for shape in reversed(shapes)]
    array = integers(x, accepted, spec.levels, "x").reshape(-1, *spec.shape)
    return array.astype(np.uint8 if spec.levels <= 256 else np.int32)


def from_texts(texts: Sequence[str], spec: DataSpec, field: str) -> np.ndarray:
    """Return texts as tokens (N, L).

    Raise RequestRefusedError 422 with the number of invalid characters; it does not repeat the text.
    """
    _needs_text(spec, field)
    length, known = spec.shape[0], {character: token for token, character in enumerate(spec.alphabet)}
    for place, text in enumerate(texts):
        name = f"{field}.{place}" if len(texts) > 1 else field
        if len(text) != length:
            raise invalid_request(f"{name}: has {len(text)} characters, the model's texts have {length}")
        strange = len({character for character in text if character not in known})
        if strange:
            raise invalid_request(f"{name}: has {strange} characters that are not in the model's alphabet")
    tokens = np.array([[known[character] for character in text] for text in texts])
    return tokens.astype(np.uint8 if spec.levels <= 256 else np.int32)


def from_masked_text(text: str, hole: str, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (1, L) and a mask (1, L), True where known, of a text with hole characters.

    A text shorter than L is padded with holes. Raise RequestRefusedError 422.
    """
    _needs_text(spec, "text")
    if hole in spec.alphabet:
        raise invalid_request("hole: must be a character outside the model's alphabet")
    if len(text) > spec.shape[0]:
        raise invalid_request(f"text: has {len(text)} characters, the model's texts have {spec.shape[0]}")
    text = text.ljust(spec.shape[0], hole)
    known = np.array([[character != hole for character in text]])
    if known.all():
        raise invalid_request("text: has no hole character; write it at each position to fill in")
    return from_texts([text.replace(hole, spec.alphabet[0])], spec, "text"), known


def known_by(mask: str | Sequence[Any], spec: DataSpec, *, pixels: int, resize: bool) -> np.ndarray:
    """Return a mask (1, *shape), True where data are known, from a picture or from lists.

    In the request white, or 1, marks what is missing. Raise RequestRefusedError 422, also if nothing is missing.
    """
    holes = _mask_from_picture(mask, spec, pixels, resize) if isinstance(mask, str) else _mask_from_lists(mask, spec)
    if not holes.any():
        raise invalid_request("mask: nothing is missing; mark the places to fill in with white, or 1")
    return ~np.broadcast_to(holes, (1, *spec.shape)).copy()


def from_latents(z: Sequence[Any], width: int | None) -> np.ndarray:
    """Return latent vectors (N, Z) as float32. Raise RequestRefusedError 422."""
    return numbers(z, width or 0, LARGEST_LATENT, "z")


def _mask_from_picture(mask: str, spec: DataSpec, pixels: int, resize: bool) -> np.ndarray:
    if not spec.is_image:
        raise invalid_request("mask: the model's data are not pictures; send nested lists of 0 and 1")
    plain = DataSpec(name="mask", kind="image", shape=(1, *spec.shape[1:]), levels=2)
    drawn = from_pictures([mask], plain, "mask", pixels=pixels, resize=resize, background=images.BLACK)
    return drawn.astype(bool)


def _mask_from_lists(mask: Sequence[Any], spec: DataSpec) -> np.ndarray:
    shapes = [spec.shape[1:], spec.shape] if spec.is_image else [spec.shape]
    return integers(mask, shapes, 2, "mask").astype(bool)


def _needs_text(spec: DataSpec, field: str) -> None:
    if not spec.is_text:
        raise invalid_request(f"{field}: the model's data are not texts")


def integers(value: Any, shapes: Sequence[Sequence[int]], levels: int, field: str) -> np.ndarray:
    """Return nested lists of integers in {0 … levels−1} as an int64 array of one of the shapes.

    A length of −1 matches any length. Raise RequestRefusedError 422.
    """
    if not any(_fits(value, shape) for shape in shapes):
        raise invalid_request(f"{field}: must be nested lists of shape {_spelt(shapes[-1])}")
    flat = _flat(value, len(next(shape for shape in shapes if _fits(value, shape))))
    kinds = set(map(type, flat))
    if not (kinds <= {int} or (levels == 2 and kinds <= {int, bool})) or min(flat) < 0 or max(flat) >= levels:
        allowed = "0 and 1, or only false and true" if levels == 2 else f"whole numbers from 0 to {levels - 1}"
        raise invalid_request(f"{field}: must hold only {allowed}")
    return np.array(value, dtype=np.int64)


def numbers(value: Any, width: int, largest: float, field: str) -> np.ndarray:
    """Return lists of numbers as a float32 array (N, width). Raise RequestRefusedError 422."""
    if not _fits(value, (-1, width)):
        raise invalid_request(f"{field}: must be lists of {width} numbers each")
    flat = _flat(value, 2)
    if not set(map(type, flat)) <= {int, float} or not all(-largest <= number <= largest for number in flat):
        raise invalid_request(f"{field}: must hold only numbers from {-largest:g} to {largest:g}")
    return np.array(value, dtype=np.float32)


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


def _spelt(shape: Sequence[int]) -> str:
    lengths = ["N" if length < 0 else str(length) for length in shape]
    return f"({', '.join(lengths)}{',' if len(lengths) == 1 else ''})"


def drawable(spec: DataSpec) -> bool:
    """Return whether examples can be written as PNG: images of 1 or 3 channels."""
    return spec.is_image and spec.shape[0] in images.MODES


def open_picture(text: str, field: str, *, pixels: int) -> ImageFile.ImageFile:
    """Open a base64 picture and read its header, without decoding pixels.

    field names the picture in error messages; pixels is its maximum size. Raise RequestRefusedError 422.
    """
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_request(f"{field}: is not base64 of a picture file (no URL, no data: prefix)") from None
    with _refused(field):
        return images.opened(data, max_pixels=pixels)


def decode_picture(
    picture: ImageFile.ImageFile,
    spec: DataSpec,
    field: str,
    *,
    resize: bool,
    background: images.Colour = images.WHITE,
) -> np.ndarray:
    """Return a picture as stored data of a spec, (C, H, W).

    Raise RequestRefusedError 422 if it cannot be read, or has another size and resize is False.
    """
    channels, height, width = spec.shape
    with _refused(field):
        plain = images.decoded(picture, channels, background=background)
    if plain.size != (width, height) and not resize:
        raise invalid_request(
            f"{field}: is {plain.width} x {plain.height} pixels, the model's pictures are {width} x {height}: "
            "send one of that size, or resize: true"
        )
    x = torch.from_numpy(images.values(plain))[None]
    own = spec.model_copy(update={"name": field, "shape": tuple(x.shape[1:]), "levels": 256})
    return instances.convert(x, own, spec, resize=True)[0].numpy()


@contextmanager
def _refused(field: str) -> Iterator[None]:
    """Turn errors of images into RequestRefusedError 422, without repeating the picture's content."""
    try:
        yield
    except images.TooLargeError as error:
        raise invalid_request(f"{field}: {error.reason}", code="too_much") from None
    except images.ImageError as error:
        raise invalid_request(f"{field}: {error.reason}") from None


def check_pixels(pictures: Sequence[ImageFile.ImageFile], *, pixels: int) -> None:
    """Raise RequestRefusedError 422 if pictures have more pixels together than one request may have."""
    if sum(picture.width * picture.height for picture in pictures) > pixels:
        raise invalid_request(f"the pictures have more than {pixels} pixels together", code="too_much")
