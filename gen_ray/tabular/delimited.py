"""The reader of CSV files: their delimiter, encoding and header, and their cells as texts."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from gen_ray.errors import UserError, argument, short
from gen_ray.tabular.text_streams import END, check_text, opened, text_codec, translated, with_end

DELIMITERS = (",", ";", "\t", "|")
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
HEADER = "the first row must hold the names of the columns"
BLOCK_BYTES, MOST_BLOCK_BYTES, BYTES_PER_COLUMN = 2**22, 2**26, 2**14
"""Bytes of a block of rows, and its limit for files with thousands of columns."""


@dataclass(frozen=True)
class CsvOptions:
    """Settings of the reader: the delimiter (None: detected), and the encoding (empty: UTF-8, or by a mark).

    arguments: messages name the settings as arguments of a command, not as keys of a configuration.
    """

    delimiter: str | None = None
    encoding: str = ""
    arguments: bool = False

    def encoding_as(self, encoding: str) -> str:
        """Return how messages write the setting of an encoding."""
        return argument("encoding", encoding) if self.arguments else f"data.options.encoding={encoding}"


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
    _blank_lines: int = field(init=False)
    """The number of blank lines before the header."""

    def __post_init__(self) -> None:
        with self.translated():
            with opened(self.path) as stream:
                sample = stream.read(SAMPLE_BYTES)
            check_text(sample, self.path)
            whole = len(sample) < SAMPLE_BYTES
            self.encoding = self.options.encoding or next(
                (name for mark, name in MARKS if sample.startswith(mark)), "utf-8"
            )
            text = text_codec(self.encoding).incrementaldecoder().decode(sample, whole).removeprefix("\ufeff")
        self.delimiter = self.options.delimiter or detect_delimiter(text, whole=whole)
        rows = _complete_rows(text, self.delimiter, whole=whole)
        if not any(cell.strip() for cell in rows[0]) if rows else not text.strip():
            raise UserError(f"{self.path}: is empty; {HEADER}")
        if not rows:
            limits = f"{SAMPLE_BYTES:,} bytes, or has a cell of more than {csv.field_size_limit():,} characters"
            raise UserError(f"{self.path}: its first row does not end within {limits}; {HEADER}")
        if any("\0" in name for name in rows[0]):
            remedy = f"name it, e.g. {self.options.encoding_as('utf-16-le')}, or convert to UTF-8"
            raise UserError(f"{self.path}: wrong encoding (NUL characters in the first row); {remedy}")
        self.names = [name.strip() or f"column_{i}" for i, name in enumerate(rows[0], 1)]
        self._blank_lines = len(text[: -len(text.lstrip("\r\n"))].replace("\r\n", "\n"))
        check_unique_names(self.names, self.path, f" ({HEADER})")

    def translated(self) -> AbstractContextManager[None]:
        """Raise errors of the file's content as UserError."""
        return translated(self.path, self.options.encoding_as("latin-1"))

    def rows(self) -> Iterator[Rows | RaggedRow]:
        """Yield all rows in order, with the texts of the cells, which are not null. Raise UserError."""
        ragged: list[RaggedRow] = []
        with self.translated(), opened(self.path) as stream:
            done, first, ended = 0, 0, False
            for batch in self._batches(stream, ragged):
                ended = batch.column(0)[-1].as_py() == END
                batch = batch.slice(0, len(batch) - ended)
                numbers, first = _numbers(first, len(batch), ragged[done:])
                if len(batch):
                    yield Rows(numbers, batch)
                passed = [row for row in ragged[done:] if row.row < first]
                done += len(passed)
                yield from passed
        if not ended:
            last = max([first - 1, *(row.row for row in ragged[-1:])])
            place = f"{self.path}, row {last}" if last >= 0 else f"{self.path}, first row"
            raise UserError(f"{place}: a quotation mark is not closed; correct the row")
        yield from ragged[done:]

    def _batches(self, stream: pa.NativeFile, ragged: list[RaggedRow]) -> Iterator[pa.RecordBatch]:
        """Yield blocks of rows, the last one with END. Raise UserError for a row that is longer than a block."""
        n = 0
        try:
            for batch in self._open(stream, ragged):
                n += len(batch)
                if len(batch):
                    yield batch
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                raise
            place = f"{self.path}, {f'row {n}' if (n := n + len(ragged)) else 'first row'} or a later one"
            fault = f"longer than {self._block_size:,} bytes, or a quotation mark is not closed"
            raise UserError(f"{place}: {fault}; correct the row") from None

    @property
    def _block_size(self) -> int:
        return self.block_bytes or min(max(BLOCK_BYTES, len(self.names) * BYTES_PER_COLUMN), MOST_BLOCK_BYTES)

    def _open(self, stream: pa.NativeFile, ragged: list[RaggedRow]) -> pa.csv.CSVStreamingReader:
        """Return the blocks of rows. Rows of other lengths are appended to ragged before the block that follows."""

        def add(row: pa.csv.InvalidRow) -> str:
            ragged.append(RaggedRow(row.number - 2 - self._blank_lines, row.actual_columns, row.expected_columns))
            return "skip"

        return pa.csv.open_csv(
            with_end(stream, self.encoding, self.delimiter, len(self.names)),
            read_options=pa.csv.ReadOptions(
                use_threads=False,  # with threads, rows of other lengths are not numbered
                block_size=self._block_size,
                skip_rows=self._blank_lines,
                column_names=self.names,
                skip_rows_after_names=1,
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


def check_unique_names(names: list[str], path: Path, hint: str = "") -> None:
    """Raise UserError if a file has several columns of one name."""
    repeated = sorted(name for name, n in Counter(names).items() if n > 1)
    if repeated:
        listed = ", ".join(short(name) for name in repeated[:10])
        raise UserError(f"{path}: has several columns named {listed}; rename or remove all but one{hint}")


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
