"""Image grids and panels as uint8 arrays, and functions that write them."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.storage.replacement import write_output

MISSING_COLOUR = (200, 60, 120)
"""The colour of missing values."""
GAP = 16
"""Pixels between the pictures of a contact sheet."""


def grid(
    images: Tensor, *, levels: int = 256, columns: int | None = None, tile_pixels: int = 56, gap: int = 4
) -> np.ndarray:
    """Return images (N, C, H, W) in {0 … levels−1} side by side, gap pixels apart, uint8 (height, width, 3).

    Small images are enlarged by an integer factor to about tile_pixels, without smoothing; unused tiles are white.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    pixels = rgb(images, levels=levels)
    factor = max(1, tile_pixels // pixels.shape[-1])
    pixels = pixels.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    height, width = pixels.shape[-2:]
    rows = math.ceil(len(images) / columns)
    canvas = torch.full((3, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for index, tile in enumerate(pixels):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = tile
    return canvas.permute(1, 2, 0).numpy()


def grid_bytes(images: int, shape: tuple[int, ...], *, tile_pixels: int = 56, gap: int = 4) -> int:
    """Return an upper bound on the memory that ``grid`` and ``write`` need for images of a shape (C, H, W)."""
    _, height, width = shape
    factor = max(1, tile_pixels // width)
    enlarged = 3 * (factor * height + gap) * (factor * width + gap)
    return images * (5 * 3 * height * width + 4 * enlarged)  # float and uint8 copies; enlarged, canvas, Pillow


def rgb(images: Tensor, *, levels: int) -> Tensor:
    """Return images (N, C, H, W) in {0 … levels−1} as uint8 (N, 3, H, W)."""
    three = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    return (three.float() * (255 / (levels - 1))).round().to(torch.uint8)


def with_missing(images: Tensor, mask: Tensor, *, levels: int) -> Tensor:
    """Return images (N, C, H, W) as uint8 (N, 3, H, W), with MISSING_COLOUR where mask (N, C, H, W) is False."""
    known = mask.all(1, keepdim=True)
    return torch.where(
        known, rgb(images, levels=levels), torch.tensor(MISSING_COLOUR, dtype=torch.uint8).view(1, 3, 1, 1)
    )


def uncertainty_map(values: Tensor) -> Tensor:
    """Return values (N, C, H, W) as uint8 (N, 3, H, W): black at 0, MISSING_COLOUR at half the maximum, white there."""
    mean = values.double().mean(1, keepdim=True)
    share, colour = (
        mean / mean.max().clamp(min=1e-12),
        torch.tensor(MISSING_COLOUR, dtype=torch.float64).view(1, 3, 1, 1),
    )
    lower, upper = (2 * share).clamp(max=1), (2 * share - 1).clamp(min=0)
    return (colour * lower + (255 - colour) * upper).round().to(torch.uint8)


def write(file: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 (H, W, 3). Raise UserError where the file cannot be written."""
    kind = Image.registered_extensions().get(file.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{file}: cannot be written (unknown file extension: {file.suffix or 'none'}); name it .png")
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture).save(buffer, kind)
    except (OSError, ValueError) as error:  # a format with fewer colours or smaller pictures
        raise UserError(f"{file}: cannot be written ({error}); name it .png") from None
    write_output(file, buffer.getvalue())


def png(picture: np.ndarray) -> bytes:
    """Encode a picture, uint8 (H, W, 3) or grey (H, W), as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_arrays(file: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write named arrays as .npz. Raise UserError where the file cannot be written."""
    plain: dict[str, Any] = {name: value.cpu().numpy() for name, value in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **plain)
    write_output(file, buffer.getvalue())


def panel(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return pictures (H, W, 3) side by side below their titles, uint8 (H, W, 3)."""
    return contact_sheet([pictures])


def contact_sheet(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return rows of pictures (H, W, 3), each below its title, uint8 (H, W, 3); columns are as wide as titles need."""
    font, title_height = ImageFont.load_default(16), 28
    column_widths = [[max(p.shape[1], math.ceil(font.getlength(title))) for title, p in row.items()] for row in rows]
    heights = [title_height + max(p.shape[0] for p in row.values()) + GAP for row in rows]
    width = max(sum(widths) + GAP * (len(widths) + 1) for widths in column_widths)
    canvas, top = Image.new("RGB", (width, sum(heights)), "white"), 0
    for row, widths, height in zip(rows, column_widths, heights, strict=True):
        left = GAP
        for (title, picture), column_width in zip(row.items(), widths, strict=True):
            ImageDraw.Draw(canvas).text((left, top + 6), title, fill="black", font=font)
            canvas.paste(Image.fromarray(picture), (left, top + title_height))
            left += column_width + GAP
        top += height
    return np.asarray(canvas)


def stacked(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return pictures (H, W, 3) one below the other, each below its caption, uint8 (H, W, 3)."""
    font, gap, caption_height = ImageFont.load_default(13), 16, 22
    width = max(p.shape[1] for p in pictures.values())
    height = sum(caption_height + p.shape[0] + gap for p in pictures.values()) - gap
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    for caption, picture in pictures.items():
        ImageDraw.Draw(canvas).text((0, top + 2), caption, fill="dimgrey", font=font)
        canvas.paste(Image.fromarray(picture), (0, top + caption_height))
        top += caption_height + picture.shape[0] + gap
    return np.asarray(canvas)
