"""Blocks of consecutive rows: those of a file, and those that are to be drawn."""

import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from gen_ray.engine.inference.rows.texts import no_text
from gen_ray.errors import RunError, UserError
from gen_ray.tabular import codec
from gen_ray.tabular.columns import MISSING, Column
from gen_ray.tabular.delimited import DETECTED, CsvFile, CsvOptions
from gen_ray.tabular.parse import ParsedRows, column_names, parse_rows
from gen_ray.tabular.plain_parquet import ParquetTable, is_parquet
from gen_ray.tabular.quotation import QuotedCells, has_quotation_marks
from gen_ray.tabular.texts import natural_type

BLOCK_ROWS = 8192
"""Rows of a table in a block, the unit of distribution and of resumption."""
LARGE_BLOCK_ROWS = 65_536
"""The same for more than MANY_ROWS rows, so that there are not too many files."""
MANY_ROWS = 1_048_576
EXAMPLES = 1024
"""Images or texts in a block."""
LARGE_EXAMPLES = 16_384
"""The same for more than MANY_EXAMPLES."""
MANY_EXAMPLES = 8_388_608
CELLS = 2**24
"""Maximum number of cells of a block, with all completions, so that it fits into memory."""


@dataclass(frozen=True)
class RowRange:
    """Rows first … first+rows−1, which are block number ``index``."""

    index: int
    first: int
    rows: int


@dataclass(frozen=True)
class RowBlock(RowRange):
    """Rows of a file: ``values`` (n, D) of the model's columns, and ``cells`` with all C columns as in the file.

    ``quoted`` (n, C) is True for cells of a CSV file that are in quotation marks; None where no cell is.
    """

    values: pa.Table
    cells: pa.Table
    quoted: np.ndarray | None = None

    def marks(self, changed: Mapping[str, np.ndarray] = MappingProxyType({})) -> dict[str, pa.Array]:
        """Return for each column whether its cells (n,) are in quotation marks: null for changed cells.

        changed are the rows of the changed cells of columns. The result is empty where no cell has quotation marks.
        """
        made = dict[str, pa.Array]()
        for c, name in enumerate(self.cells.schema.names if self.quoted is not None else ()):
            assert self.quoted is not None
            unknown = np.zeros(self.rows, bool)
            unknown[changed.get(name, [])] = True
            made[name] = pa.array(self.quoted[:, c], mask=unknown)
        return made


class Blocks(Protocol):
    """A sequence of blocks."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        ...

    @property
    def rows(self) -> int:
        """Return the number of rows of all blocks."""
        ...

    @property
    def source(self) -> Mapping[str, Any]:
        """Return the version of the file of the rows, as JSON can hold it; nothing for rows to be drawn."""
        ...

    def check_unchanged(self) -> None:
        """Raise RunError if the source was changed."""
        ...

    def read(self, skip: Collection[int] = ()) -> Iterator[RowRange]:
        """Yield the blocks in order, without those numbered in skip."""
        ...


@dataclass(frozen=True)
class DrawnBlocks:
    """Blocks of rows 0 … rows−1, which are to be drawn."""

    rows: int
    block_rows: int

    def __len__(self) -> int:
        """Return the number of blocks."""
        return -(-self.rows // self.block_rows)

    @property
    def source(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}

    def check_unchanged(self) -> None:
        """Do nothing."""

    def read(self, skip: Collection[int] = ()) -> Iterator[RowRange]:
        """Yield the blocks in order, without those numbered in skip."""
        return (block for block in ranges(self.rows, self.block_rows) if block.index not in skip)


@dataclass(frozen=True)
class FileBlocks:
    """The blocks of a CSV or Parquet file with given columns. Raise UserError where rows cannot be read.

    ``rows``, ``missing`` (D,), the number of missing values of each column, and ``absent``, the columns that the file
    lacks, are the result of ``inspect``. ``stamp`` are the size and time of the file before. ``copies`` is the number
    of completions of each row, and ``options`` are the settings of the reader of CSV.
    """

    path: Path
    columns: tuple[Column, ...]
    rows: int
    missing: tuple[int, ...]
    absent: tuple[str, ...]
    stamp: tuple[int, int]
    copies: int = 1
    options: CsvOptions = DETECTED

    def __len__(self) -> int:
        """Return the number of blocks, at least one, so that a file without rows has an output too."""
        return max(1, -(-self.rows // self.block_rows))

    @property
    def block_rows(self) -> int:
        """Return the number of rows of a block."""
        return rows_per_block(self.rows, cells=len(self.columns) * self.copies)

    @property
    def source(self) -> Mapping[str, Any]:
        """Return the name, size and time of the file, and the settings of its reader."""
        return {"data": [str(self.path), *self.stamp], "csv": [self.options.delimiter, self.options.encoding]}

    def check_unchanged(self) -> None:
        """Raise RunError if the file was changed after ``inspect``."""
        check_stamp(self.path, stamp_of(self.path), self.stamp)

    @cached_property
    def is_parquet(self) -> bool:
        """Return whether the cells have types; those of a CSV file are texts."""
        return is_parquet(self.path)

    @cached_property
    def types(self) -> dict[str, pa.DataType]:
        """Return the types of the file's cells by column, dictionaries decoded; texts for CSV."""
        if not self.is_parquet:
            return dict.fromkeys(self.names, pa.string())
        return {one.name: _plain_type(one.type) for one in ParquetTable(self.path).schema}

    def check_texts(self) -> None:
        """Raise UserError if a column of the file has a type of which CSV cannot hold the values."""
        for name, kind in self.types.items():
            if pa.types.is_nested(kind) or (pa.types.is_timestamp(kind) and natural_type(kind) is None):
                raise UserError(f"{self.path}: {no_text(name, kind)}")

    @cached_property
    def has_quotation_marks(self) -> bool:
        """Return whether cells of a CSV file may be in quotation marks."""
        return not self.is_parquet and has_quotation_marks(self._csv)

    @cached_property
    def delimiter(self) -> str:
        """Return the delimiter of a CSV file; a comma for Parquet."""
        return "," if self.is_parquet else self._csv.delimiter

    @cached_property
    def names(self) -> list[str]:
        """Return the names of the file's columns."""
        return column_names(self.path, options=self.options)

    @property
    def _csv(self) -> CsvFile:
        return CsvFile(self.path, self.options)

    def read(self, skip: Collection[int] = ()) -> Iterator[RowBlock]:
        """Yield the blocks in order, without those numbered in skip."""
        first, marks = 0, QuotedCells(self._csv) if self.has_quotation_marks else None
        for index, (values, cells) in enumerate(_regrouped(self._parsed(), self.block_rows)):
            quoted = marks.take(len(values)) if marks else None
            if index not in skip:
                yield RowBlock(index, first, len(values), values, cells, quoted)
            first += len(values)
        if not self.rows and 0 not in skip:
            empty = np.empty((0, len(self.columns)))
            values = codec.decode(empty.astype(np.int32), self.columns, empty)
            yield RowBlock(0, 0, 0, values, pa.table({name: pa.array([], kind) for name, kind in self.types.items()}))

    def encode(self, values: pa.Table) -> np.ndarray:
        """Return the codes (n, D) of values, −1 in absent columns also if a missing value is one of the categories."""
        codes = codec.encode(values, self.columns, str(self.path))
        codes[:, [column.name in self.absent for column in self.columns]] = MISSING
        return codes

    def _parsed(self) -> Iterator[ParsedRows]:
        return parse_rows(self.path, self.columns, options=self.options, absent_as_missing=True)


def ranges(rows: int, block_rows: int) -> Iterator[RowRange]:
    """Yield rows 0 … rows−1 in blocks of block_rows, the last one of fewer."""
    for index, first in enumerate(range(0, rows, block_rows)):
        yield RowRange(index, first, min(block_rows, rows - first))


def rows_per_block(rows: int, *, examples: bool = False, cells: int = 1) -> int:
    """Return the rows of a block of a file or sample of this many rows, each with a number of cells.

    examples: of images or texts.
    """
    small, large, many = (
        (EXAMPLES, LARGE_EXAMPLES, MANY_EXAMPLES) if examples else (BLOCK_ROWS, LARGE_BLOCK_ROWS, MANY_ROWS)
    )
    return max(1, min(small if rows <= many else large, CELLS // cells))


def inspect(path: Path, columns: Sequence[Column], options: CsvOptions = DETECTED) -> FileBlocks:
    """Return the blocks of a file, after one pass that checks every value. Raise UserError with file, row and column.

    The pass takes little time in comparison with a model, and finds errors before the work starts.
    """
    stamp = stamp_of(path)
    rows, missing, names = 0, np.zeros(len(columns), np.int64), set(column_names(path, options=options))
    absent = tuple(column.name for column in columns if column.name not in names)
    file = FileBlocks(path, tuple(columns), 0, (), absent, stamp, options=options)
    for parsed in parse_rows(path, columns, options=options, absent_as_missing=True):
        rows += len(parsed.values)
        missing += (file.encode(parsed.values) == MISSING).sum(0)
    return replace(file, rows=rows, missing=tuple(missing.tolist()))


def check_stamp(path: Path, now: object, before: object) -> None:
    """Raise RunError if the versions of a source before and after a command differ."""
    if now != before:
        raise RunError(f"{path}: was changed during the command, whose output is not written; repeat it")


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size and time of a file. Raise UserError for anything else, such as a pipe."""
    try:
        about = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path}: is not a regular file; it is read several times, so copy it to one")
    return about.st_size, about.st_mtime_ns


def _regrouped(parsed: Iterator[ParsedRows], rows: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the values and cells of ``rows`` consecutive rows each; of fewer at the end."""
    values: list[pa.Table] = []
    cells: list[pa.Table] = []
    for part in parsed:
        values.append(part.values)
        cells.append(_plain(part.cells))
        while sum(map(len, values)) >= rows:
            whole = pa.concat_tables(values), pa.concat_tables(cells)
            yield whole[0].slice(0, rows).combine_chunks(), whole[1].slice(0, rows).combine_chunks()
            values, cells = [whole[0].slice(rows)], [whole[1].slice(rows)]
    if sum(map(len, values)):
        yield pa.concat_tables(values).combine_chunks(), pa.concat_tables(cells).combine_chunks()


def _plain(cells: pa.RecordBatch) -> pa.Table:
    """Return cells as a table in which dictionaries are decoded, because each batch has different ones."""
    arrays = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in cells.columns]
    return pa.table(arrays, names=cells.schema.names)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
