"""Rows of a table of data as JSON objects or CSV text: their parsing to codes, and the values of codes as JSON."""

import csv
import io
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.instances import InstanceError
from gen_ray.engine.inference.rows.conditions import RowConditions
from gen_ray.errors import nearest, plain
from gen_ray.tabular.columns import (
    MISSING,
    BaseColumn,
    BooleanColumn,
    CategoryColumn,
    IntegerColumn,
    NumberColumn,
)
from gen_ray.tabular.delimited import detect_delimiter
from gen_ray.tabular.parse import describe
from gen_ray.tabular.texts import parse_texts

LONGEST_LISTED, MOST_LISTED = 64, 5
"""Characters of an unknown category, and number of them for each column, that a response repeats."""

MOST_FURTHER = 256
"""Maximum number of columns of a CSV text that are not the model's, because each takes time even without rows."""

Row = Mapping[str, Any]
"""A row as a JSON object: values by column, None where a value is missing."""


@dataclass(frozen=True)
class GivenRows:
    """N rows of a model's D columns that a request gives.

    ``values`` (N, D) have the columns' types, null where a value is missing; ``codes`` (N, D) int32 are their codes, −1
    where missing. ``unknown`` are categories that the model does not know, by column; their code is "other".
    ``conditions`` are those of a row of conditions, whose values are the known ones. ``cells`` are all columns of a CSV
    text as texts, in its order, and ``delimiter`` is that of the text.
    """

    values: pa.Table
    codes: np.ndarray
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    conditions: RowConditions | None = None
    cells: pa.Table | None = None
    delimiter: str = ","

    @property
    def unused(self) -> list[str]:
        """Return the names of the columns of a CSV text that are not among the model's."""
        names = [] if self.cells is None else self.cells.column_names
        return [name for name in names if name not in self.values.column_names]

    @property
    def nbytes(self) -> int:
        """Return the memory of the values and cells, in bytes."""
        return self.values.nbytes + (0 if self.cells is None else self.cells.nbytes)

    def __len__(self) -> int:
        """Return N."""
        return len(self.codes)

    @property
    def known(self) -> np.ndarray:
        """Return a mask (N, D), True where a value is known."""
        return self.codes != MISSING


def parse_objects(objects: Sequence[Any], spec: DataSpec, field: str) -> GivenRows:
    """Return rows that are JSON objects; None and absent columns are missing values.

    Raise InstanceError naming the column: for an unknown one the nearest, for a wrong value the expected type.
    """
    names = {column.name: None for column in spec.columns}
    places = [field if len(objects) == 1 else f"{field}.{i}" for i in range(len(objects))]
    for row, place in zip(objects, places, strict=True):
        if not isinstance(row, Mapping):
            raise InstanceError(place, "must be an object of values by column")
        unknown = [name for name in row if name not in names]
        if unknown:
            name = unknown[0][:LONGEST_LISTED]
            raise InstanceError(place, f"has a column {plain(name)!r} that is not known; {nearest(name, names)}")
    absent = np.array([[name not in row for name in names] for row in objects])
    return _rows([[row.get(name) for row in objects] for name in names], places, spec, absent)


def parse_csv(text: str, spec: DataSpec, field: str, *, most: int) -> GivenRows:
    """Return the rows of a CSV text whose first row names the columns; absent columns are missing values.

    Further columns are only kept as cells. most is the maximum number of rows. Raise InstanceError naming the column of
    a wrong value, for rows of another length than the first one, and if all columns are further ones, or too many.
    """
    text = text.removeprefix("\ufeff")
    delimiter = detect_delimiter(text)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        raise InstanceError(field, "is not CSV: a quotation mark is not closed, or a cell is too long") from None
    header, *rows = [*dropwhile(operator.not_, lines)] or [[]]
    # in a table of one column a blank line is a row with a missing value
    rows = [line or [""] for line in rows] if len(header) == 1 else [line for line in rows if line]
    names = [name.strip() or f"column_{i}" for i, name in enumerate(header, 1)]
    if not rows:
        raise InstanceError(field, "needs a row of column names and at least one row of values")
    if len(rows) > most:
        raise InstanceError(field, f"has {len(rows):,} rows; the maximum is {most:,}", too_large=True)
    _check_names(names, spec, field)
    places = [f"{field}, row {i}" for i in range(1, len(rows) + 1)]
    for row, place in zip(rows, places, strict=True):
        if len(row) != len(names):
            raise InstanceError(place, f"has {len(row)} cells; the first row has {len(names)}")
    cells, known = dict(zip(names, zip(*rows, strict=True), strict=True)), [column.name for column in spec.columns]
    absent = np.tile([name not in cells for name in known], (len(rows), 1))
    made = _rows([cells.get(name, [None] * len(rows)) for name in known], places, spec, absent)
    return replace(
        made, cells=pa.table({name: pa.array(cells[name], pa.string()) for name in names}), delimiter=delimiter
    )


def _check_names(names: Sequence[str], spec: DataSpec, field: str) -> None:
    """Raise InstanceError for the names of the columns of a CSV text."""
    known = {column.name for column in spec.columns}
    if repeated := [name for name, n in Counter(names).items() if n > 1]:
        raise InstanceError(field, f"has the column {repeated[0][:LONGEST_LISTED]!r} twice")
    further = [name for name in names if name not in known]
    if len(further) == len(names):
        raise InstanceError(field, f"has none of the model's columns; {nearest(names[0][:LONGEST_LISTED], known)}")
    if len(further) > MOST_FURTHER:
        reason = f"has {len(further):,} columns that the model does not use; the maximum is {MOST_FURTHER}"
        raise InstanceError(field, reason, too_large=True)


def conditions_row(conditions: RowConditions, spec: DataSpec) -> GivenRows:
    """Return conditions as one row, which has the values of the columns that are to have a single one."""
    codes = np.full((1, len(spec.columns)), MISSING, np.int32)
    arrays = [pa.nulls(1, column.type_of_values) for column in spec.columns]
    for d, (code, value) in conditions.known.items():
        codes[0, d], arrays[d] = code, value
    table = pa.table(arrays, names=[column.name for column in spec.columns])
    return GivenRows(table, codes, conditions=conditions)


def decoded(codes: np.ndarray, u: np.ndarray, spec: DataSpec, given: GivenRows | None = None) -> pa.Table:
    """Return the values of codes (n, D), null where they are −1, with the columns' types.

    u (n, D) in [0, 1) selects one of the values that a code stands for. Where a row of given has a value, this value is
    returned: the N rows of given stand for n/N consecutive rows of codes each.
    """
    arrays = [column.decode(codes[:, d], u[:, d]) for d, column in enumerate(spec.columns)]
    if given is not None and len(given):
        index = pa.array(np.repeat(np.arange(len(given)), len(codes) // len(given)))
        kept = given.values.take(index)
        arrays = [pc.coalesce(kept.column(d).combine_chunks(), array) for d, array in enumerate(arrays)]
    return pa.table(arrays, names=[column.name for column in spec.columns])


def as_objects(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON objects, None where a value is null."""
    columns = [as_json(column.combine_chunks()) for column in table.columns]
    if not columns:
        return [{} for _ in range(len(table))]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def as_json(values: pa.Array) -> list[Any]:
    """Return values as JSON: dates and times as ISO 8601, infinite numbers as texts, None for null and NaN."""
    kind = values.type
    if pa.types.is_floating(kind):
        # texts have the fewest digits that give the same number: 0.1 for float32 too
        numbers = [None if text is None else float(text) for text in values.cast(pa.string()).to_pylist()]
        return [_json_number(number) for number in numbers]
    if pa.types.is_temporal(kind):
        return [None if value is None else value.isoformat() for value in values.to_pylist()]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        listed: list[Any] = values.to_pylist()
        return listed
    texts: list[Any] = values.cast(pa.string()).to_pylist()
    return texts


def _json_number(number: float | None) -> float | str | None:
    if number is None or math.isnan(number):
        return None
    return number if math.isfinite(number) else str(number)


def _rows(columns: Sequence[Sequence[Any]], places: Sequence[str], spec: DataSpec, absent: np.ndarray) -> GivenRows:
    """Return rows from the JSON values (N,) of each column; places name the rows in errors.

    Cells (N, D) that are absent are not known, also in columns where a missing value is one of the categories.
    """
    arrays, codes, unknown = [], np.empty((len(places), len(spec.columns)), np.int32), {}
    for d, (cells, column) in enumerate(zip(columns, spec.columns, strict=True)):
        values = _parse_column(cells, places, column)
        arrays.append(values)
        codes[:, d] = column.encode(values)
        if isinstance(column, CategoryColumn) and (others := _unknown_categories(values, column)):
            unknown[column.name] = others
    codes[absent] = MISSING
    return GivenRows(pa.table(arrays, names=[column.name for column in spec.columns]), codes, unknown)


def _parse_column(cells: Sequence[Any], places: Sequence[str], column: BaseColumn) -> pa.Array:
    """Return the values (N,) of a column's JSON values. Raise InstanceError with the place and the column."""
    texts: list[str | None] = []
    for value, place in zip(cells, places, strict=True):
        text = None if value is None else cell_text(value, column)
        if text is None and value is not None:
            raise InstanceError(place, f"column {column.name!r} must be {expected(column)}, or null")
        texts.append(text)
    parsed = parse_texts(pa.array(texts, pa.string()), column)
    if parsed.bad.any():
        place = places[int(np.flatnonzero(parsed.bad)[0])]
        raise InstanceError(place, f"column {column.name!r} must be {expected(column)}, or null")
    return parsed.values


def cell_text(value: Any, column: BaseColumn) -> str | None:
    """Return a JSON value as the text that a file would have, or None if the column cannot have such a value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower() if isinstance(column, BooleanColumn) else None
    if isinstance(value, float) and value.is_integer() and not isinstance(column, NumberColumn):
        value = int(value)
    if isinstance(column, IntegerColumn | NumberColumn) or _has_numbers(column):
        whole = isinstance(value, int)
        return repr(value) if whole or (isinstance(value, float) and not isinstance(column, IntegerColumn)) else None
    return None


def _has_numbers(column: BaseColumn) -> bool:
    """Return whether a column's categories are numbers."""
    kind = column.type_of_values
    return isinstance(column, CategoryColumn) and (pa.types.is_integer(kind) or pa.types.is_floating(kind))


def expected(column: BaseColumn) -> str:
    """Return what a value of a column is, for messages."""
    if isinstance(column, NumberColumn):
        return "a number"
    if isinstance(column, IntegerColumn):
        return f"a whole number of type {column.arrow_type}"
    if isinstance(column, CategoryColumn) and not _has_numbers(column):
        return "a text"
    return describe(column)


def _unknown_categories(values: pa.Array, column: CategoryColumn) -> list[str]:
    """Return the different values that are neither among a column's categories nor among its rare values."""
    texts = values.cast(pa.string()).drop_null()
    known = pc.is_in(texts, value_set=pa.array([*column.categories, *column.rare], pa.string()))
    others = pc.unique(texts.filter(pc.invert(known))).to_pylist()
    return [text[:LONGEST_LISTED] for text in others[:MOST_LISTED]]
