"""A folder of image files."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gen_ray.datasets.rows import BadRow, Batch
from gen_ray.datasets.source import BATCH_VALUES, Source, plain_name, stamps
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
GREY_MODES = frozenset({"1", "L", "LA", "La"})
DEEP_MODES = frozenset({"F", "I", "I;16", "I;16B", "I;16L", "I;16N"})
MAX_PIXELS = 64_000_000


class ImageFolder(Source):
    """Images below a folder: one class a sub-folder, or all in the folder itself and no labels.

    The first readable image decides between grey and colour, and on the size; ``image_size`` scales the shorter side
    and crops the centre. Files without an image's ending are not looked at; of an animation the first frame counts.
    """

    argument = "DIR"
    heeds = frozenset({"image_size", "levels"})

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return plain_name(self.path.absolute().name)

    @cached_property
    def files(self) -> list[Path]:
        """Return the image files in a fixed order. Raise UserError if there are none or the layout is ambiguous."""
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such folder")
        below = [file.relative_to(self.path) for file in self.path.rglob("*") if file.suffix.lower() in ENDINGS]
        found = sorted(file for file in below if not any(part.startswith(".") for part in file.parts))
        if not found:
            raise UserError(f"{self.path}: no image files ({' '.join(sorted(ENDINGS))})")
        flat = [file for file in found if len(file.parts) == 1]
        if flat and len(flat) < len(found):
            raise UserError(f"{self.path}: holds both images ({flat[0]}) and folders of images; use one or the other")
        return found

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the sub-folders that hold images."""
        return tuple(sorted({file.parts[0] for file in self.files if len(file.parts) > 1}))

    def signature(self) -> list[list[object]]:
        """Return the stamps of all image files."""
        return stamps((self.path / file for file in self.files), self.path)

    def spec(self) -> DataSpec:
        """Open images until one can be read."""
        first = None
        for file in self.files:
            try:
                with _open(self.path / file) as image:
                    channels = 1 if image.mode in GREY_MODES else 3
                    width, height = [self.options.image_size] * 2 if self.options.image_size else image.size
            except _NotAnImageError as error:
                first = first or f"{self.path / file}: {error}"
                continue
            shape = (channels, height, width)
            return DataSpec(name=self.name, kind="image", shape=shape, levels=256, classes=self.classes)
        raise UserError(f"{self.path}: none of {len(self.files)} images can be read; {first}")

    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield the images in order of their paths, which are also their identities."""
        step = max(1, BATCH_VALUES // spec.dims)
        number = {name: i for i, name in enumerate(self.classes)}
        for start in range(0, len(self.files), step):
            images, kept = [], []
            for file in self.files[start : start + step]:
                try:
                    images.append(self._pixels(self.path / file, spec.shape))
                    kept.append(file)
                except _NotAnImageError as error:
                    yield BadRow(file=str(self.path / file), reason=str(error))
            if kept:
                labels = np.array([number[file.parts[0]] for file in kept]) if number else None
                yield Batch(x=np.stack(images), keys=[file.as_posix() for file in kept], labels=labels)

    def _pixels(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """Return one image, (C, H, W) uint8."""
        channels, height, width = shape
        with _open(path) as image:
            plain = image.convert("L" if channels == 1 else "RGB")
        if self.options.image_size:
            plain = ImageOps.fit(plain, (width, height), Image.Resampling.LANCZOS)
        if plain.size != (width, height):
            raise _NotAnImageError(
                f"{plain.width} x {plain.height} pixels, where the first image has {width} x {height}: "
                "set image_size to scale all to one size"
            )
        pixels = np.asarray(plain)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


class _NotAnImageError(Exception):
    """Why a file cannot be used; the caller knows its name."""


def _open(path: Path) -> Image.Image:
    """Return a fully decoded image. Raise _NotAnImageError for whatever is wrong with it."""
    try:
        image = Image.open(path)
    except Exception as error:  # decoders raise anything on garbage
        raise _NotAnImageError("not an image that can be read") from error
    try:
        if image.width * image.height > MAX_PIXELS:
            raise _NotAnImageError(f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} allowed")
        if image.mode in DEEP_MODES:
            raise _NotAnImageError(f"more than 8 bits a pixel (mode {image.mode}): convert it to 8 bits first")
        image.load()
    except _NotAnImageError:
        image.close()
        raise
    except Exception as error:  # decoders raise anything on garbage
        image.close()
        raise _NotAnImageError(" ".join(f"damaged image: {error}".split())[:200]) from error
    return image
