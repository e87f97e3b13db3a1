"""Blocks of images and texts in files: Parquet files of values or of texts, and folders of pictures."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gen_ray.datasets.image_layout import entries
from gen_ray.datasets.parquet_columns import described, element_type, image_axes, stated_shape
from gen_ray.datasets.source import stamps
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import instances
from gen_ray.engine.inference.rows.blocks import RowRange, check_stamp, ranges, rows_per_block
from gen_ray.engine.inference.rows.files import PARQUET
from gen_ray.errors import UserError
from gen_ray.tabular.plain_parquet import opened

PICTURES = 64
"""Pictures that are decoded at a time."""
Part = tuple[np.ndarray, list[str]]
"""Values (n, *shape) int64, -1 where missing, and the names (n) of the examples."""


@dataclass(frozen=True)
class ExampleBlock(RowRange):
    """Images or texts: ``x`` (n, *shape) int64, -1 where missing. ``names`` (n) are a picture's path, or FILE#ROW."""

    x: np.ndarray
    names: Sequence[str]


@dataclass(frozen=True)
class ExampleBlocks:
    """The blocks of a Parquet file, of a folder of them, or of a folder of pictures. Raise UserError as ``inspect``.

    ``rows``, ``missing``, the number of missing values, and ``stamp``, the version of the files, are the result of
    ``inspect``. Null is a missing value in Parquet, and ``hole`` a missing character of a text. resize scales pictures
    to the model's size. ``copies`` is the number of completions of each example.
    """

    path: Path
    spec: DataSpec
    hole: str = ""
    resize: bool = False
    rows: int = 0
    missing: int = 0
    stamp: str = ""
    copies: int = 1

    def __len__(self) -> int:
        """Return the number of blocks."""
        return -(-self.rows // self.block_rows)

    @property
    def block_rows(self) -> int:
        """Return the number of examples of a block."""
        return rows_per_block(self.rows, examples=True, cells=self.spec.dims * self.copies)

    @property
    def source(self) -> Mapping[str, Any]:
        """Return the version of the files, and how they are read."""
        return {"data": [str(self.path), self.hole, self.resize, self.stamp]}

    def check_unchanged(self) -> None:
        """Raise RunError if a file was changed after ``inspect``."""
        check_stamp(self.path, _stamp(self.path), self.stamp)

    def read(self, skip: Collection[int] = ()) -> Iterator[ExampleBlock]:
        """Yield the blocks in order, without those numbered in skip."""
        parts, x, names = self.parts(), np.empty((0, *self.spec.shape), np.int64), list[str]()
        for block in ranges(self.rows, self.block_rows):
            while len(x) < block.rows and (part := next(parts, None)) is not None:
                x, names = np.concatenate([x, part[0]]), names + part[1]
            if len(x) < block.rows:
                return
            if block.index not in skip:
                yield ExampleBlock(block.index, block.first, block.rows, x[: block.rows], names[: block.rows])
            x, names = x[block.rows :], names[block.rows :]

    def parts(self) -> Iterator[Part]:
        """Yield all examples in the order of the files' names."""
        files = _files(self.path)
        if files[0].suffix == PARQUET:
            for file in files:
                yield from self._parquet(file)
            return
        for first in range(0, len(files), PICTURES):
            some = files[first : first + PICTURES]
            x = torch.cat([instances.read(file, self.spec, resize=self.resize) for file in some])
            yield x.numpy().astype(np.int64), [file.relative_to(self.path).as_posix() for file in some]

    def _parquet(self, file: Path) -> Iterator[Part]:
        name = file.name if file == self.path else file.relative_to(self.path).as_posix()
        rows = max(1, 2**20 // self.spec.dims)
        with opened(file) as source:
            column, row = _column(source.schema_arrow, self.spec, file), 0
            for batch in source.iter_batches(rows, columns=[column.name], use_threads=False):
                values = batch.column(0)
                is_values = element_type(column.type) is not None
                x = self._values(values, column, file, row) if is_values else self._tokens(values, file, row)
                yield x, [f"{name}#{row + i}" for i in range(len(x))]
                row += len(x)

    def _values(self, array: pa.Array, column: pa.Field, file: Path, first: int) -> np.ndarray:
        """Return a column of lists or tensors as values (n, *shape)."""
        spec, shape = self.spec, stated_shape(column, file)
        own, axes = image_axes(shape) if len(shape) > 1 else (spec.shape, tuple(range(1, len(spec.shape) + 1)))
        lists = array.storage if isinstance(array, pa.ExtensionArray) else array
        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy()
        if own != spec.shape or (lengths != spec.dims).any():
            row = first + int((lengths != spec.dims).argmax())
            raise UserError(f"{file}, row {row}: column {column.name!r} needs {spec.dims} values, shape {spec.shape}")
        flat = lists.flatten().cast(pa.int64())
        x = pc.fill_null(flat, -1).to_numpy().reshape(-1, spec.dims)
        known = ~flat.is_null().to_numpy(zero_copy_only=False).reshape(-1, spec.dims)
        if (wrong := known & ((x < 0) | (x >= spec.levels))).any():
            row = first + int(wrong.any(1).argmax())
            raise UserError(f"{file}, row {row}: {x[wrong][0]} is not a value from 0 to {spec.levels - 1}")
        return x.reshape(-1, *(shape if len(shape) > 1 else spec.shape)).transpose(0, *axes).reshape(-1, *spec.shape)

    def _tokens(self, array: pa.Array, file: Path, first: int) -> np.ndarray:
        """Return texts as tokens (n, L); characters that are the hole, and those after the end, are missing."""
        numbers = {character: token for token, character in enumerate(self.spec.alphabet)} | {self.hole: -1}
        length = self.spec.shape[0]
        x = np.full((len(array), length), -1)
        for i, text in enumerate(array.to_pylist()):
            if text is None or len(text) > length or (len(text) < length and not self.hole):
                held = "no text" if text is None else f"{len(text)} characters"
                raise UserError(f"{file}, row {first + i}: has {held}, the model's texts have {length}")
            if strange := set(text) - set(numbers):
                raise UserError(f"{file}, row {first + i}: has {min(strange)!r}, which is not in {self.spec.name}")
            x[i, : len(text)] = [numbers[character] for character in text]
        return x


def inspect(path: Path, spec: DataSpec, *, hole: str = "", resize: bool = False) -> ExampleBlocks:
    """Return the blocks of a Parquet file or a folder, after one pass over all values of Parquet files.

    Pictures are only counted, because their decoding takes longer. Raise UserError with file and row.
    """
    if spec.is_text and hole and (len(hole) != 1 or hole in spec.alphabet):
        raise instances.InstanceError("hole", "must be one character outside the model's alphabet")
    if not path.is_dir() and path.suffix != PARQUET:
        raise UserError(f"{path}: {spec.name} holds {spec.kind}, which is read from a .parquet file or a folder")
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
    files, stamp = _files(path), _stamp(path)
    if files[0].suffix != PARQUET:
        if not instances.drawable(spec):
            raise UserError(f"{path}: holds no .parquet file, from which {spec.kind} of {spec.name} are read")
        return ExampleBlocks(path, spec, hole, resize, len(files), stamp=stamp)
    rows = missing = 0
    for x, _ in ExampleBlocks(path, spec, hole).parts():
        rows, missing = rows + len(x), missing + int((x < 0).sum())
    if not rows:
        raise UserError(f"{path}: holds no examples")
    return ExampleBlocks(path, spec, hole, resize, rows, missing, stamp)


def _stamp(path: Path) -> str:
    """Return a digest of the names, sizes and times of the files."""
    found = stamps(_files(path), path if path.is_dir() else path.parent)
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """Return a file itself, or the Parquet files of a folder, or else the pictures below it."""
    if not path.is_dir():
        return [path]
    return sorted(path.glob(f"*{PARQUET}")) or [path / entry.file for entry in entries(path)]


def _column(schema: pa.Schema, spec: DataSpec, file: Path) -> pa.Field:
    """Return the column of texts or values. Raise UserError if there is none."""
    kinds = {str(field.name): field for field in schema}
    values = [field for field in schema if element_type(field.type) is not None]
    values = [field for field in values if pa.types.is_integer(element_type(field.type))]
    if "x" in kinds and kinds["x"] in values:
        return kinds["x"]
    if spec.is_text and "text" in kinds and pa.types.is_string(kinds["text"].type):
        return kinds["text"]
    if len(values) == 1:
        return values[0]
    texts = ", or a column text" if spec.is_text else ""
    raise UserError(
        f"{file}: needs a column x of lists or tensors of integers{texts}; its columns are {described(schema)}"
    )
