"""Pictures as they travel: base64 of a file, read no further than its header until its size is known."""

import base64
import binascii
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from gen_ray.dataspec import DataSpec
from gen_ray.engine import instances, plots
from gen_ray.serving.refusals import invalid

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MODES = {1: "L", 3: "RGB"}
"""Pillow's name of a picture, by channels."""
UNDECIDED = 128
"""The grey of a place where a preview has nothing yet."""
SCANS = 64
"""Of a JPEG, at most: each is a pass over all its pixels, and a small file can ask for a hundred thousand."""


def drawable(spec: DataSpec) -> bool:
    """Return whether examples are pictures that a PNG can hold."""
    return spec.is_image and spec.shape[0] in MODES


def opened(text: str, field: str, *, pixels: int) -> Image.Image:
    """Return the picture in a base64 text, its header read and no pixel yet. Raise RefusedError 422.

    field says which picture is meant; pixels is how many it may have.
    """
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{field}: is not base64 of a picture file (no URL, no data: prefix)") from None
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > SCANS:
        raise invalid(f"{field}: the JPEG has more than {SCANS} scans", code="too_much")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many(field, pixels) from None
    except Exception:  # readers of broken files raise of everything, and none of it is this server's fault
        raise invalid(f"{field}: is not a picture that can be read; {', '.join(FORMATS)} can") from None
    if picture.width * picture.height > pixels:
        raise _too_many(field, pixels)
    return picture


def decoded(picture: Image.Image, spec: DataSpec, field: str, *, resize: bool) -> np.ndarray:
    """Return a picture as stored data of a spec, (C, H, W). Raise RefusedError 422 for another size, telling both."""
    channels, height, width = spec.shape
    if (picture.width, picture.height) != (width, height) and not resize:
        raise invalid(
            f"{field}: is {picture.width} x {picture.height} pixels, the model's pictures are {width} x {height}: "
            "send one of that size, or resize: true"
        )
    try:
        plain = np.array(picture.convert(MODES[channels]))
    except Exception:  # as above: the file is broken further on
        raise invalid(f"{field}: the picture is damaged") from None
    x = torch.from_numpy(plain).view(1, *plain.shape[:2], channels).movedim(-1, 1)
    own = spec.model_copy(update={"name": field, "shape": tuple(x.shape[1:]), "levels": 256})
    return instances.fit(x, own, spec, resize=True)[0].numpy()


def png(sample: np.ndarray, *, levels: int) -> bytes:
    """Return a PNG of one example (C, H, W) in {0 … levels−1} with 1 or 3 channels, at its own size; −1 is mid-grey."""
    grey = np.where(sample < 0, UNDECIDED, np.rint(sample * (255 / (levels - 1)))).astype(np.uint8)
    return plots.png(grey.transpose(1, 2, 0) if len(grey) > 1 else grey[0])


def encoded(samples: np.ndarray, *, levels: int) -> list[str]:
    """Return base64 of a PNG of each sample (N, C, H, W)."""
    return [base64.b64encode(png(sample, levels=levels)).decode() for sample in samples]


def grid(samples: np.ndarray, *, levels: int) -> bytes:
    """Return one PNG of samples (N, C, H, W) side by side."""
    return plots.png(plots.grid(torch.from_numpy(samples), levels=levels))


def budget(pictures: Sequence[Image.Image], *, pixels: int) -> None:
    """Raise RefusedError 422 where pictures together have more pixels than a request may bring."""
    if sum(picture.width * picture.height for picture in pictures) > pixels:
        raise invalid(f"the pictures have more than {pixels} pixels together", code="too_much")


def _too_many(field: str, pixels: int) -> Exception:
    return invalid(f"{field}: the picture has more than {pixels} pixels", code="too_much")
