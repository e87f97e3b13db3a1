"""The conversion between tables of values and arrays of codes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from gen_ray.errors import UserError, nearest
from gen_ray.tabular.columns import BaseColumn


def encode(table: pa.Table, columns: Sequence[BaseColumn], where: str) -> np.ndarray:
    """Return the codes (N, D) int32 of a table's rows, −1 where a value is missing; other columns are not used.

    where names the table in errors. Raise UserError for a column that the table lacks, and for values of another type.
    """
    codes = np.empty((len(table), len(columns)), np.int32)
    for index, column in enumerate(columns):
        if table.schema.names.count(column.name) != 1:
            found = table.schema.names.count(column.name)
            problem = f"has {found} columns {column.name!r}" if found else f"has no column {column.name!r}"
            raise UserError(f"{where}: {problem}, {nearest(column.name, table.schema.names)}")
        try:
            codes[:, index] = column.encode(table.column(column.name).combine_chunks())
        except pa.ArrowException as error:
            raise UserError(f"{where}: column {column.name!r} is not {column.arrow_type} ({error})") from None
    return codes


def decode(codes: np.ndarray, columns: Sequence[BaseColumn], u: np.ndarray) -> pa.Table:
    """Return the values of codes (N, D), null where they are −1, as a table with the columns' names and types.

    u (N, D) in [0, 1) selects one of the values that a code stands for; 0.5 gives their median.
    """
    arrays = [column.decode(codes[:, d], u[:, d]) for d, column in enumerate(columns)]
    return pa.table(arrays, names=[column.name for column in columns])
