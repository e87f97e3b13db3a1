"""Decoding and encoding of base64 pictures. The size in the header is checked before pixels are decoded."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import ImageFile

from gen_ray.datasets import images
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import instances
from gen_ray.engine.plots import grids
from gen_ray.serving.errors import invalid_request

MASKED_GREY = 128
"""Grey level of undecided places in a preview."""


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


def check_pixels(pictures: Sequence[ImageFile.ImageFile], *, pixels: int) -> None:
    """Raise RequestRefusedError 422 if pictures have more pixels together than one request may have."""
    if sum(picture.width * picture.height for picture in pictures) > pixels:
        raise invalid_request(f"the pictures have more than {pixels} pixels together", code="too_much")
