"""The rows of CSV and Parquet files as values of given columns, next to the cells as they are in the file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gen_ray.errors import UserError, nearest, one_line
from gen_ray.tabular.columns import BaseColumn, BooleanColumn, DatetimeColumn
from gen_ray.tabular.delimited import DETECTED, CsvFile, CsvOptions, RaggedRow, Rows
from gen_ray.tabular.plain_parquet import ParquetTable, is_parquet
from gen_ray.tabular.texts import parse_cells, shown

__all__ = ["CsvOptions", "ParsedRows", "column_names", "parse_rows"]


@dataclass(frozen=True)
class ParsedRows:
    """Consecutive rows of a file.

    ``first`` is the number of the first one in the file, from 0 without a header. ``values`` (n, D) has the given
    columns with their types, null where a value is missing. ``cells`` has all columns of the file in the file's order:
    those of a CSV file as texts exactly as they are in the file (without quotation marks), those of a Parquet file
    with their own types.
    """

    first: int
    values: pa.Table
    cells: pa.RecordBatch


def parse_rows(
    path: Path,
    columns: Sequence[BaseColumn],
    *,
    options: CsvOptions = DETECTED,
    absent_as_missing: bool = False,
    block_bytes: int | None = None,
) -> Iterator[ParsedRows]:
    """Yield the rows of a CSV file (also .gz, .bz2, .zst) or Parquet file in order, a block in memory at a time.

    The file may have more columns. With absent_as_missing, columns that it lacks are null. Raise UserError with the
    file and the row for a row of another length than the header and for a text that is not a value of its column.
    """
    file = _opened(path, options, block_bytes)
    if not absent_as_missing:
        _check_present(columns, file.names, path)
    first = 0
    for rows in file.rows():
        if isinstance(rows, RaggedRow):
            raise UserError(f"{path}, row {rows.row}: {rows}; correct the row")
        yield ParsedRows(first, _values(rows, columns, path), rows.cells)
        first += len(rows.cells)


def column_names(path: Path, *, options: CsvOptions = DETECTED) -> list[str]:
    """Return the names of a file's columns. Raise UserError."""
    return _opened(path, options, None).names


def _opened(path: Path, options: CsvOptions, block_bytes: int | None) -> CsvFile | ParquetTable:
    return ParquetTable(path) if is_parquet(path) else CsvFile(path, options, block_bytes)


def _check_present(columns: Sequence[BaseColumn], names: Sequence[str], path: Path) -> None:
    absent = [column.name for column in columns if column.name not in set(names)]
    if absent:
        more = f" and {len(absent) - 1} more of the model's columns" if len(absent) > 1 else ""
        raise UserError(f"{path}: column {absent[0]!r}{more} is missing; {nearest(absent[0], names)}")


def _values(rows: Rows, columns: Sequence[BaseColumn], path: Path) -> pa.Table:
    """Return the values of rows (n, D). Raise UserError."""
    arrays = []
    for column in columns:
        if column.name not in rows.cells.schema.names:
            arrays.append(pa.nulls(len(rows.cells), column.type_of_values))
            continue
        cells = rows.cells.column(column.name)
        try:
            parsed = parse_cells(cells, column)
        except pa.ArrowNotImplementedError as error:
            fault = f"is {cells.type}, not {column.arrow_type} ({one_line(error)}); convert or remove it"
            raise UserError(f"{path}: column {column.name!r} {fault}") from None
        if parsed.bad.any():
            i = int(np.flatnonzero(parsed.bad)[0])
            remedy = "correct it, or leave the cell empty"
            place = f"{path}, row {rows.numbers[i]}, column {column.name!r}"
            raise UserError(f"{place}: {shown(cells[i])} is not {describe(column)}; {remedy}")
        arrays.append(parsed.values)
    return pa.table(arrays, names=[column.name for column in columns])


def describe(column: BaseColumn) -> str:
    """Return what a value of a column is, for messages."""
    if isinstance(column, DatetimeColumn):
        if column.format:
            return f"a time of the format {column.format}"
        return f"a time such as {_example_of_time(column.type_of_values)} (ISO 8601)"
    if isinstance(column, BooleanColumn):
        return "true or false"
    noun = {"number": "a number", "integer": "a whole number"}.get(column.type, "a value")
    return f"{noun} of type {column.arrow_type}"


def _example_of_time(kind: pa.DataType) -> str:
    if pa.types.is_date(kind):
        return "2026-01-31"
    return "2026-01-31T18:30:00" + ("+00:00" if kind.tz else "")
