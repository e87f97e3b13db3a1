"""Pictures of samples and numbers, as arrays: who shows them decides where they go."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError


def grid(images: Tensor, *, levels: int = 256, columns: int | None = None, tile_pixels: int = 56) -> np.ndarray:
    """Return images (N, C, H, W) in {0 … levels−1} side by side, uint8 (height, width, 3).

    Small images are enlarged by a whole factor to about tile_pixels, without smoothing; missing tiles stay white.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    rgb = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    pixels = (rgb.float() * (255 / (levels - 1))).round().to(torch.uint8)
    factor = max(1, tile_pixels // pixels.shape[-1])
    pixels = pixels.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    height, width = pixels.shape[-2:]
    rows, gap = math.ceil(len(images) / columns), 4
    canvas = torch.full((3, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for index, tile in enumerate(pixels):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = tile
    return canvas.permute(1, 2, 0).numpy()


def save(file: Path, samples: Tensor, spec: DataSpec) -> None:
    """Write samples (N, *shape) as a .png grid or as the array ``samples`` of an .npz."""
    writers = {".png": _save_png, ".npz": lambda file, x, _: np.savez_compressed(file, samples=x.numpy())}
    try:
        writers[file.suffix](file, samples, spec)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from None


def _save_png(file: Path, samples: Tensor, spec: DataSpec) -> None:
    Image.fromarray(grid(samples, levels=spec.levels)).save(file)


def panel(titled: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return pictures (H, W, 3) side by side under their titles, uint8."""
    font, gap, head = ImageFont.load_default(16), 16, 28
    width = sum(p.shape[1] + gap for p in titled.values()) + gap
    canvas = Image.new("RGB", (width, max(p.shape[0] for p in titled.values()) + head + gap), "white")
    left = gap
    for title, picture in titled.items():
        ImageDraw.Draw(canvas).text((left, 6), title, fill="black", font=font)
        canvas.paste(Image.fromarray(picture), (left, head))
        left += picture.shape[1] + gap
    return np.asarray(canvas)
