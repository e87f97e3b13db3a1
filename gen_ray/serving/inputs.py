"""Conversion of a request's pictures, nested lists, texts and masks to arrays of stored data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen_ray.datasets import images
from gen_ray.dataspec import DataSpec
from gen_ray.serving import nested, pictures
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
    if not pictures.drawable(spec):
        raise invalid_request(f"{field}: the model's data are not pictures of 1 or 3 channels; send x")
    names = [f"{field}.{place}" for place in range(len(texts))] if len(texts) > 1 else [field]
    opened = [pictures.open_picture(text, name, pixels=pixels) for text, name in zip(texts, names, strict=True)]
    pictures.check_pixels(opened, pixels=pixels)
    decoded = [
        pictures.decode_picture(picture, spec, name, resize=resize, background=background)
        for picture, name in zip(opened, names, strict=True)
    ]
    return np.stack(decoded)


def from_lists(x: Sequence[Any], spec: DataSpec, *, many: bool) -> np.ndarray:
    """Return nested lists of stored integers as an array (N, *shape), or of one example as (1, *shape).

    Raise RequestRefusedError 422.
    """
    shapes = [spec.shape, spec.shape[1:]] if spec.is_image and spec.shape[0] == 1 else [spec.shape]
    accepted = [(-1, *shape) if many else shape for shape in reversed(shapes)]
    array = nested.integers(x, accepted, spec.levels, "x").reshape(-1, *spec.shape)
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
    return nested.numbers(z, width or 0, LARGEST_LATENT, "z")


def _mask_from_picture(mask: str, spec: DataSpec, pixels: int, resize: bool) -> np.ndarray:
    if not spec.is_image:
        raise invalid_request("mask: the model's data are not pictures; send nested lists of 0 and 1")
    plain = DataSpec(name="mask", kind="image", shape=(1, *spec.shape[1:]), levels=2)
    drawn = from_pictures([mask], plain, "mask", pixels=pixels, resize=resize, background=images.BLACK)
    return drawn.astype(bool)


def _mask_from_lists(mask: Sequence[Any], spec: DataSpec) -> np.ndarray:
    shapes = [spec.shape[1:], spec.shape] if spec.is_image else [spec.shape]
    return nested.integers(mask, shapes, 2, "mask").astype(bool)


def _needs_text(spec: DataSpec, field: str) -> None:
    if not spec.is_text:
        raise invalid_request(f"{field}: the model's data are not texts")
