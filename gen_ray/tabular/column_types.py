"""The types of columns: those that all values have, or that the user has set."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.errors import UserError
from gen_ray.tabular.columns import (
    BaseColumn,
    BooleanColumn,
    CategoryColumn,
    DatetimeColumn,
    IntegerColumn,
    NumberColumn,
)
from gen_ray.tabular.options import ColumnOptions
from gen_ray.tabular.remarks import on_texts
from gen_ray.tabular.retained import Retained
from gen_ray.tabular.statistics import ColumnStatistics
from gen_ray.tabular.texts import is_text, natural_type, read_times, tolerant

WHOLE_NUMBER = r"^[+-]?[0-9]+$"
LEADING_ZERO = r"^[+-]?0[0-9]"
TIMES: Mapping[str, pa.DataType] = {
    "date": pa.date32(),
    "time": pa.timestamp("us"),
    "time with zone": pa.timestamp("us", "UTC"),
}


def column_type(
    name: str, statistics: ColumnStatistics, retained: Retained, own: ColumnOptions, missing: tuple[str, ...]
) -> tuple[BaseColumn, str]:
    """Return a column with its type, which does not have codes yet, and a line about it, if any.

    Raise UserError if the user's settings do not suit the values.
    """
    kind = statistics.arrow_type or pa.null()
    choose = _type_of_texts if is_text(kind) else _type_of_values
    chosen, arrow_type, note = choose(name, statistics, retained, own)
    if own.missing_as_category:
        if chosen not in ("category", "boolean"):
            raise UserError(f"{_path(name)}.missing_as_category: the column is of type {chosen}; only for categories")
        if chosen == "boolean":
            chosen, arrow_type = "category", pa.string() if is_text(kind) else pa.bool_()
    if own.format and chosen != "datetime":
        raise UserError(f"{_path(name)}.format: the column is of type {chosen}; only for datetime")
    common: dict[str, Any] = {"name": name, "arrow_type": str(arrow_type), "missing": missing, "counts": (0,)}
    interval: dict[str, Any] = {"starts": (0,), "examples": ((0,),), "means": (0.0,)}
    columns: dict[str, BaseColumn] = {
        "number": NumberColumn(**common, **interval),
        "integer": IntegerColumn(**common, **interval),
        "datetime": DatetimeColumn(**common, **interval, format=own.format),
        "boolean": BooleanColumn(**common),
        "category": CategoryColumn(**common, categories=(), missing_as_category=own.missing_as_category),
    }
    return columns[chosen], note


def _type_of_texts(
    name: str, statistics: ColumnStatistics, retained: Retained, own: ColumnOptions
) -> tuple[str, pa.DataType, str]:
    """Return the type of texts, the Arrow type of their values, and a line about it."""
    fixed = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string()}
    if own.format or own.type == "datetime":
        return own.type or "datetime", _times(retained.values, own.format), ""
    if own.type:
        return own.type, fixed[own.type], ""
    found = statistics.types[0] if statistics.types else "category"
    if found in TIMES:
        return "datetime", TIMES[found], ""
    if found == "integer" and pc.any(pc.match_substring_regex(retained.values, LEADING_ZERO)).as_py():
        note = f"column {name!r} is read as a category: some of its numbers start with 0 ({_path(name)}.type=integer)"
        return "category", pa.string(), note
    note = on_texts(name, _path(name), statistics.not_a_number, retained) if found == "category" else ""
    if found == "number" and pc.all(pc.match_substring_regex(retained.values, WHOLE_NUMBER)).as_py():
        note = f"column {name!r} is read as a number, to 15 digits: some of its integers have more than 64 bits"
    return found, fixed[found], note


def _type_of_values(
    name: str, statistics: ColumnStatistics, retained: Retained, own: ColumnOptions
) -> tuple[str, pa.DataType, str]:
    """Return the type of values that are not texts, their Arrow type, and a line about it."""
    kind = statistics.arrow_type or pa.null()
    natural = natural_type(kind)
    if natural is None:
        raise ValueError(f"values of type {kind}")
    arrow_type, note = pa.float64() if pa.types.is_decimal(kind) else kind, ""
    if pa.types.is_uint64(kind) and pc.max(retained.values).as_py() >= 2**63:
        note = f"column {name!r} is read as a number, to 15 digits: some of its integers have more than 63 bits"
        natural, arrow_type = "number", pa.float64()
    chosen = own.type or natural
    if chosen != natural:
        converted = {"number": pa.float64(), "integer": pa.int64(), "category": arrow_type}
        if chosen not in converted or (natural == "datetime" and chosen != "category"):
            raise UserError(f"{_path(name)}.type={chosen}: its values are of type {kind}; convert them first")
        arrow_type = converted[chosen]
    return chosen, arrow_type, note


def _times(texts: pa.Array, form: str | None) -> pa.DataType:
    """Return the type of times that most texts have, the narrowest one first."""
    if form is not None:
        return pa.timestamp("us", "UTC" if "%z" in form else None)
    return min(TIMES.values(), key=lambda kind: tolerant(partial(read_times, kind=kind), texts).null_count)


def _path(name: str) -> str:
    return f"data.options.columns.{name}"
