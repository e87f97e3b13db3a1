"""The conversion of the texts of cells to values of a column's type."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.tabular.columns import BaseColumn, CategoryColumn, DatetimeColumn

Reader = Callable[[pa.Array], pa.Array]
"""A function of texts to values. It raises ArrowInvalid if a text is not a value."""


@dataclass(frozen=True)
class Parsed:
    """Values of cells (n,), null where they are missing, and a mask (n,) that is True for texts that are not values."""

    values: pa.Array
    bad: np.ndarray


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type are texts, possibly in a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def natural_type(kind: pa.DataType) -> str | None:
    """Return the type of a column with values of an Arrow type, None if it is not supported."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    return "datetime" if pa.types.is_date(kind) or pa.types.is_timestamp(kind) else None


def trimmed(texts: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Return texts without surrounding spaces, null where they are markers of a missing value."""
    texts = pc.utf8_trim_whitespace(texts.cast(pa.string()))
    marked = pc.is_in(texts, value_set=pa.array(missing, pa.string()))
    return pc.if_else(marked, pa.scalar(None, pa.string()), texts)


def parse_cells(cells: pa.Array, column: BaseColumn) -> Parsed:
    """Return cells (n,), texts or values of any type, as values of a column's type.

    Raise ArrowInvalid or ArrowNotImplementedError if cells that are not texts cannot be converted.
    """
    if pa.types.is_dictionary(cells.type):
        parsed = parse_cells(cells.dictionary, column)
        bad = pc.fill_null(pc.take(pa.array(parsed.bad), cells.indices), False)
        return Parsed(parsed.values.take(cells.indices), bad.to_numpy(zero_copy_only=False))
    if is_text(cells.type):
        texts = trimmed(cells, column.missing)
        values = tolerant(reader(column), texts)
        bad = pc.and_(values.is_null(), texts.is_valid()).to_numpy(zero_copy_only=False)
        return Parsed(without_nan(values), bad)
    values = without_markers(cells, column.missing)
    if isinstance(column, CategoryColumn):
        values = values.cast(pa.string())
    safe = not pa.types.is_temporal(cells.type) and not pa.types.is_floating(column.type_of_values)
    return Parsed(values.cast(column.type_of_values, safe=safe), np.zeros(len(cells), bool))


def reader(column: BaseColumn) -> Reader:
    """Return the reader of a column's texts."""
    kind = column.type_of_values
    if isinstance(column, CategoryColumn):
        return partial(pc.cast, target_type=kind)
    if isinstance(column, DatetimeColumn):
        return partial(read_times, kind=kind, form=column.format)
    if pa.types.is_boolean(kind):
        return read_booleans
    if pa.types.is_integer(kind):
        return lambda texts: read_integers(texts).cast(kind)
    return lambda texts: read_numbers(texts).cast(kind, safe=False)


def tolerant(read: Reader, texts: pa.Array) -> pa.Array:
    """Return the values of texts, null where they are not values."""
    try:
        return read(texts)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, read(texts.slice(0, 0)).type)
        half = len(texts) // 2
        return pa.concat_arrays([tolerant(read, texts.slice(0, half)), tolerant(read, texts.slice(half))])


def read_numbers(texts: pa.Array) -> pa.Array:
    """Return decimal numbers as float64. Numbers may be infinite."""
    return texts.cast(pa.float64())


def read_integers(texts: pa.Array) -> pa.Array:
    """Return whole decimal numbers as int64."""
    if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():  # Arrow reads 0x10 as 16
        raise pa.ArrowInvalid("hexadecimal numbers")
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return pc.replace_substring_regex(texts, pattern=r"^\+([0-9])", replacement=r"\1").cast(pa.int64())


def read_booleans(texts: pa.Array) -> pa.Array:
    """Return ``true`` and ``false``, of either case, as truth values."""
    found = pc.index_in(pc.utf8_lower(texts), value_set=pa.array(["false", "true"]))
    if found.null_count > texts.null_count:
        raise pa.ArrowInvalid("other texts than true and false")
    return found.cast(pa.bool_())


def read_times(texts: pa.Array, kind: pa.DataType, form: str | None = None) -> pa.Array:
    """Return times (ISO 8601, or in a format of strptime) as a type of dates or times.

    A type with a zone needs texts with a zone, and converts them to UTC; other types need texts without a zone.
    Fractions of a microsecond are dropped.
    """
    if form is not None:
        return pc.strptime(texts, format=form, unit="us").cast(kind, safe=False)
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if pa.types.is_date(kind):
            raise
        return pc.replace_substring_regex(texts, pattern=r"(\.[0-9]{6})[0-9]{1,3}", replacement=r"\1").cast(kind)


def without_nan(values: pa.Array) -> pa.Array:
    """Return values, null where they are not a number."""
    if pa.types.is_float16(values.type):  # Arrow lacks its functions
        values = values.cast(pa.float32())
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def without_markers(values: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Return values, null where they are not a number or equal to the number of a marker of a missing value."""
    values = without_nan(values)
    if not pa.types.is_integer(values.type) and not pa.types.is_floating(values.type):
        return values
    read = read_integers if pa.types.is_integer(values.type) else read_numbers
    markers = without_nan(tolerant(lambda texts: read(texts).cast(values.type), pa.array(missing, pa.string())))
    return pc.if_else(pc.is_in(values, value_set=markers.drop_null()), pa.scalar(None, values.type), values)
