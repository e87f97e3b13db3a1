"""The source ``image_folder``: a folder of image files."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gen_ray.datasets import images
from gen_ray.datasets.image_layout import Entry, entries, split_of
from gen_ray.datasets.rows import SPLITS, BadRow, Batch, Split
from gen_ray.datasets.source import BATCH_VALUES, DataSource, plain_name, stamps
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError


class ImageFolder(DataSource):
    """Images below a folder: a sub-folder for each class, or all images in the folder and no labels.

    Sub-folders named train with val or test (``image_layout.SPLIT_NAMES``) are the splits, each with such a layout.
    Images are grey if all of them are, else RGB. The first readable image determines the size; ``image_size`` scales
    the shorter side and crops the centre. Files without the suffix of an image are not read.
    """

    argument = "DIR"
    used_options = frozenset({"image_size", "levels"})

    @property
    def name(self) -> str:
        """Return the folder's name, with that of its parent before it if the folder is named like a split."""
        folder = self.path.absolute()
        return plain_name(f"{folder.parent.name}-{folder.name}" if split_of(folder.name) else folder.name)

    @cached_property
    def files(self) -> list[Entry]:
        """Return the image files in a fixed order. Raise UserError if there are none or the layout is ambiguous."""
        return entries(self.path)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the class folders that hold images."""
        return tuple(sorted({entry.label for entry in self.files if entry.label is not None}))

    def signature(self) -> list[list[object]]:
        """Return the version of this reader and the stamps of all image files."""
        return [["image_folder", 2], *stamps((self.path / entry.file for entry in self.files), self.path)]

    def spec(self) -> DataSpec:
        """Return the spec. Images are decoded until one can be read, and headers are read until one is in colour."""
        size, first, channels = None, None, 1
        for entry in self.files:
            try:
                with images.opened(self.path / entry.file) as image:
                    channels = 1 if images.is_grey(image) else 3
                    size = size or images.decoded(image, channels).size
            except images.ImageError as error:
                first = first or f"{self.path / entry.file}: {error}"
            if size and channels == 3:
                break
        if size is None:
            raise UserError(f"{self.path}: none of {len(self.files)} images can be read; {first}")
        width, height = [self.options.image_size] * 2 if self.options.image_size else size
        shape = (channels, height, width)
        return DataSpec(name=self.name, kind="image", shape=shape, levels=256, classes=self.classes)

    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield the images split by split, ordered by their paths, which are also their identities."""
        for split in (None, *SPLITS):
            yield from self._rows([entry for entry in self.files if entry.split == split], spec)

    def _rows(self, files: list[Entry], spec: DataSpec) -> Iterator[Batch | BadRow]:
        step = max(1, BATCH_VALUES // spec.dims)
        number = {name: i for i, name in enumerate(self.classes)}
        for start in range(0, len(files), step):
            x, valid = [], []
            for entry in files[start : start + step]:
                try:
                    x.append(self._pixels(self.path / entry.file, spec.shape))
                    valid.append(entry)
                except images.ImageError as error:
                    yield BadRow(file=str(self.path / entry.file), reason=str(error))
            if valid:
                labels = np.array([number[entry.label or ""] for entry in valid]) if number else None
                keys = [entry.file.as_posix() for entry in valid]
                split = valid[0].split
                yield Batch(x=np.stack(x), keys=keys, labels=labels, official=split, provided=self._provided)

    @cached_property
    def _provided(self) -> frozenset[Split]:
        return frozenset(entry.split for entry in self.files if entry.split)

    def _pixels(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """Return one image, (C, H, W) uint8."""
        channels, height, width = shape
        with images.opened(path) as image:
            plain = images.decoded(image, channels)
        if self.options.image_size:
            plain = ImageOps.fit(plain, (width, height), Image.Resampling.LANCZOS)
        if plain.size != (width, height):
            raise images.ImageError(
                f"{plain.width} x {plain.height} pixels, where the first image has {width} x {height}: "
                "set image_size to scale all to one size"
            )
        return images.values(plain)
