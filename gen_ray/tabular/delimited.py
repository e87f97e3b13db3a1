"""The reader of CSV files: their delimiter, encoding and header, and their cells as texts."""

import codecs
import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from gen_ray.errors import UserError, one_line

DELIMITERS = (",", ";", "\t", "|")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""Byte order marks, longer ones first."""
SAMPLE_BYTES = 2**20
"""Number of bytes from which the delimiter is detected, and the longest header."""
SAMPLE_ROWS = 100
BLOCK_BYTES, MOST_BLOCK_BYTES, BYTES_PER_COLUMN = 2**22, 2**26, 2**14
"""Bytes of a block of rows, and its limit for files with thousands of columns."""


@dataclass(frozen=True)
class CsvOptions:
    """Settings of the reader: the delimiter (None: detected), and the encoding (empty: UTF-8, or by a mark)."""

    delimiter: str | None = None
    encoding: str = ""


DETECTED = CsvOptions()
"""The settings of files whose delimiter and encoding are detected."""


@dataclass(frozen=True)
class RaggedRow:
    """A row that has another number of cells than the header. Rows are numbered from 0, without the header."""

    row: int
    cells: int
    expected: int

    def __str__(self) -> str:
        return f"{self.cells} cells, where the header has {self.expected}"


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a file: their numbers (n,) from 0, without the header, and their cells."""

    numbers: np.ndarray
    cells: pa.RecordBatch


@dataclass
class CsvFile:
    """A CSV file, possibly compressed (.gz, .bz2, .zst), whose first row holds the names of the columns.

    Creating it reads the first rows. Raise UserError for files that cannot be read, that are empty, or whose names
    are not unique.
    """

    path: Path
    options: CsvOptions = DETECTED
    block_bytes: int | None = None
    delimiter: str = field(init=False)
    encoding: str = field(init=False)
    names: list[str] = field(init=False)
    has_rows: bool = field(init=False)

    def __post_init__(self) -> None:
        with translated(self.path):
            with _stream(self.path) as stream:
                sample = stream.read(SAMPLE_BYTES)
            whole = len(sample) < SAMPLE_BYTES
            self.encoding = self.options.encoding or next(
                (name for mark, name in MARKS if sample.startswith(mark)), "utf-8"
            )
            text = codecs.getincrementaldecoder(self.encoding)().decode(sample, whole).removeprefix("\ufeff")
        self.delimiter = self.options.delimiter or detect_delimiter(text, whole=whole)
        rows = _complete_rows(text, self.delimiter, whole=whole)
        if not rows:
            shortage = "is empty" if not text.strip() else f"its first row does not end within {SAMPLE_BYTES:,} bytes"
            raise UserError(f"{self.path}: {shortage}; the first row must hold the names of the columns")
        self.names = [name.strip() or f"column_{i}" for i, name in enumerate(rows[0], 1)]
        self.has_rows = len(rows) > 1 or not whole
        check_unique_names(self.names, self.path)

    def rows(self) -> Iterator[Rows | RaggedRow]:
        """Yield all rows in order, with the texts of the cells, which are not null. Raise UserError."""
        if not self.has_rows:
            return
        ragged: list[RaggedRow] = []
        with translated(self.path), _stream(self.path) as stream:
            done, first = 0, 0
            for batch in self._open(stream, ragged):
                numbers, first = _numbers(first, len(batch), ragged[done:])
                yield Rows(numbers, batch)
                passed = [row for row in ragged[done:] if row.row < first]
                done += len(passed)
                yield from passed
        yield from ragged[done:]

    def _open(self, stream: pa.NativeFile, ragged: list[RaggedRow]) -> pa.csv.CSVStreamingReader:
        """Return the blocks of rows. Rows of other lengths are appended to ragged before the block that follows."""

        def add(row: pa.csv.InvalidRow) -> str:
            ragged.append(RaggedRow(row.number - 2, row.actual_columns, row.expected_columns))
            return "skip"

        size = self.block_bytes or min(max(BLOCK_BYTES, len(self.names) * BYTES_PER_COLUMN), MOST_BLOCK_BYTES)
        return pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(
                use_threads=False,  # with threads, rows of other lengths are not numbered
                block_size=size,
                column_names=self.names,
                skip_rows_after_names=1,
                encoding="utf8" if self.encoding == "utf-8" else self.encoding,
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=len(self.names) > 1,
                invalid_row_handler=add,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(self.names, pa.string()), strings_can_be_null=False
            ),
        )


def detect_delimiter(text: str, *, whole: bool = True) -> str:
    """Return the delimiter of the first rows of a file: that for which most rows have as many cells as the header."""

    def score(delimiter: str) -> tuple[float, int]:
        rows = _complete_rows(text, delimiter, whole=whole)
        cells = len(rows[0]) if rows else 1
        return (sum(len(row) == cells for row in rows) / len(rows), cells) if cells > 1 else (0, 0)

    return max(DELIMITERS, key=score)


def check_unique_names(names: list[str], path: Path) -> None:
    """Raise UserError if a file has several columns of one name."""
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        listed = ", ".join(repr(name) for name in repeated[:10])
        raise UserError(
            f"{path}: has several columns named {listed}; rename or remove all but one "
            "(the first row must hold the names)"
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise errors of a file's content as UserError."""
    try:
        yield
    except (UnicodeError, LookupError) as error:
        raise UserError(f"{path}: {_encoding_fault(error)}") from None
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise UserError(f"{path}: {_encoding_fault(error)}") from None
        if "straddling" in str(error):
            raise UserError(f"{path}: a row is too long, or a quotation mark is not closed") from None
        raise UserError(f"{path}: not a readable CSV file ({one_line(error)})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None


def _encoding_fault(error: Exception) -> str:
    if isinstance(error, LookupError) and not isinstance(error, UnicodeError):
        return f"{one_line(error)}; data.options.encoding names one of Python's encodings, e.g. latin-1"
    return f"wrong encoding ({one_line(error)}); name it, e.g. data.options.encoding=latin-1"


def _stream(path: Path) -> pa.NativeFile:
    stream = pa.OSFile(str(path)) if type(path) is type(Path()) else pa.PythonFile(path.open("rb"))
    compression = COMPRESSIONS.get(path.suffix.lower())
    return pa.CompressedInputStream(stream, compression) if compression else stream


def _complete_rows(text: str, delimiter: str, *, whole: bool) -> list[list[str]]:
    """Return the first rows of a text, without blank ones, and without the last one unless the text is whole."""
    rows = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            rows += [row] if row else []
            if len(rows) > SAMPLE_ROWS:
                break
    except csv.Error:  # a cell without end: the quotation mark opens a text of another delimiter
        return rows
    return rows if whole and len(rows) <= SAMPLE_ROWS else rows[:-1]


def _numbers(first: int, n: int, ragged: list[RaggedRow]) -> tuple[np.ndarray, int]:
    """Return the numbers (n,) of the next n good rows of a file from row first, and the number after the last one."""
    skipped = np.array([row.row for row in ragged if row.row >= first], np.int64)
    numbers = np.arange(first, first + n + len(skipped))
    numbers = np.setdiff1d(numbers, skipped, assume_unique=True)[:n] if len(skipped) else numbers
    return numbers, int(numbers[-1]) + 1 if n else first
