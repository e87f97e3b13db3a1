"""The values of a model's columns in the types that the cells of a Parquet file have."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.engine.inference.rows.conditions import all_values
from gen_ray.engine.inference.rows.texts import as_texts
from gen_ray.errors import UserError, one_line
from gen_ray.tabular.columns import BaseColumn, as_type
from gen_ray.tabular.texts import is_text


def fitted(values: pa.Array, column: BaseColumn, kind: pa.DataType) -> pa.Array:
    """Return values of a column as another type; numbers are rounded where it holds whole numbers.

    Raise ArrowInvalid or ArrowNotImplementedError for values that it does not hold.
    """
    if is_text(kind):
        return as_texts(values, column.name, column).cast(kind)
    if pa.types.is_floating(kind):
        made = values.cast(kind, safe=False)
        if not np.isfinite(made.drop_null().to_numpy(zero_copy_only=False)).all():
            raise pa.ArrowInvalid(f"numbers that are too large for {kind}")
        return made
    if pa.types.is_floating(values.type) and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        values = pc.round(values)
    made = as_type(values, kind)
    if pa.types.is_boolean(kind) and not made.cast(values.type).equals(values):
        raise pa.ArrowInvalid("other numbers than 0 and 1")
    return made


def check_fits(column: BaseColumn, kind: pa.DataType, where: str) -> None:
    """Raise UserError unless cells of a type can hold all values of a column."""
    if pa.types.is_null(kind):
        return
    try:
        fitted(column.decode(*all_values(column)), column, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        fault = f"is {kind}, which cannot hold the values that are filled in ({one_line(error)})"
        remedy = f"convert it to {column.arrow_type}, or write .csv"
        raise UserError(f"{where}: column {column.name!r} {fault}; {remedy}") from None
