"""The conversion of the texts of cells to values of a column's type."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.errors import short
from gen_ray.tabular.columns import BaseColumn, BooleanColumn, CategoryColumn, DatetimeColumn, IntegerColumn, as_type

Reader = Callable[[pa.Array], pa.Array]
"""A function of texts to values. It raises ArrowInvalid if a text is not a value."""
CALENDAR, NANOSECONDS, DAY = (-62_135_596_800, 253_402_300_799), (-9_223_372_036, 9_223_372_036), 86_400
"""The seconds since 1970 of the years 1 to 9999, which Python's dates and ISO 8601 have, and of int64 nanoseconds."""


@dataclass(frozen=True)
class Parsed:
    """Values of cells (n,), null where they are missing, and a mask (n,) that is True for cells that are not values."""

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
    return "datetime" if pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and _is_zone(kind.tz)) else None


@lru_cache
def _is_zone(name: str | None) -> bool:
    """Return whether this machine knows a time zone."""
    try:
        pa.scalar(0, pa.timestamp("us", name)).as_py()
    except (pa.ArrowException, LookupError, ValueError):
        return False
    return True


def trimmed(texts: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Return texts without surrounding spaces, null where they are markers of a missing value."""
    texts = pc.utf8_trim_whitespace(texts.cast(pa.string()))
    marked = pc.is_in(texts, value_set=pa.array(missing, pa.string()))
    return pc.if_else(marked, pa.scalar(None, pa.string()), texts)


def parse_cells(cells: pa.Array, column: BaseColumn) -> Parsed:
    """Return cells (n,), texts or values of any type, as values of a column's type.

    Raise ArrowNotImplementedError if cells have a type that cannot be converted.
    """
    if pa.types.is_dictionary(cells.type):
        parsed = parse_cells(cells.dictionary, column)
        bad = pc.fill_null(pc.take(pa.array(parsed.bad), cells.indices), False)
        return Parsed(parsed.values.take(cells.indices), bad.to_numpy(zero_copy_only=False))
    if is_text(cells.type):
        known = trimmed(cells, column.missing)
        values = tolerant(reader(column), known)
    else:
        known = without_markers(cells, column.missing)
        values = tolerant(partial(_converted, column=column), known)
    if isinstance(column, DatetimeColumn):
        values = _in_calendar(values)
    bad = pc.and_(values.is_null(), known.is_valid()).to_numpy(zero_copy_only=False)
    return Parsed(without_nan(values), bad)


def _converted(values: pa.Array, column: BaseColumn) -> pa.Array:
    """Return values that are not texts as a column's type. Raise ArrowInvalid for those that it does not have."""
    kind = column.type_of_values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    if isinstance(column, CategoryColumn):
        values = values.cast(pa.string())
    elif isinstance(column, IntegerColumn):
        values = values.cast(pa.int64())
    elif isinstance(column, BooleanColumn) and not pa.types.is_boolean(values.type):
        found = pc.index_in(values, value_set=pa.array([0, 1]).cast(values.type))
        if found.null_count > values.null_count:
            raise pa.ArrowInvalid("other numbers than 0 and 1")
    return values.cast(kind, safe=False) if pa.types.is_floating(kind) else as_type(values, kind)


def _in_calendar(times: pa.Array) -> pa.Array:
    """Return times, null outside of the years 1 to 9999 (in each time zone)."""
    zone = getattr(times.type, "tz", None)
    seconds, margin = as_type(times, pa.timestamp("s", zone)).cast(pa.int64()), DAY if zone else 0
    first, last = NANOSECONDS if getattr(times.type, "unit", "") == "ns" else CALENDAR
    inside = pc.and_(pc.greater_equal(seconds, first + margin), pc.less_equal(seconds, last - margin))
    return pc.if_else(inside, times, pa.scalar(None, times.type))


def parse_texts(texts: pa.Array, column: BaseColumn) -> Parsed:
    """Return texts (n,) of a user as values. Times may be in the column's own format, or in ISO 8601 as in answers."""
    parsed = parse_cells(texts, column)
    if not isinstance(column, DatetimeColumn) or column.format is None or not parsed.bad.any():
        return parsed
    iso = parse_cells(texts, column.model_copy(update={"format": None}))
    return Parsed(pc.coalesce(parsed.values, iso.values), parsed.bad & iso.bad)


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
    kind = values.type
    if not pa.types.is_integer(kind) and not pa.types.is_floating(kind) and not pa.types.is_decimal(kind):
        return values
    read = read_integers if pa.types.is_integer(kind) else read_numbers if pa.types.is_floating(kind) else pa.array
    markers = without_nan(tolerant(lambda texts: read(texts).cast(kind), pa.array(missing, pa.string())))
    return pc.if_else(pc.is_in(values, value_set=markers.drop_null()), pa.scalar(None, kind), values)


def shown(cell: pa.Scalar) -> str:
    """Return a cell as a text for messages."""
    try:
        return short(cell.as_py())
    except (ValueError, OverflowError):  # a time that Python's dates cannot express
        return f"{cell.value} ({cell.type})"
