"""The conversion between tables of values and arrays of codes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.errors import UserError, nearest
from gen_ray.tabular.columns import BaseColumn
from gen_ray.tabular.texts import is_text, parse_cells

PROBED = 1_000
"""Number of cells that decide whether the cells of a block are likely to repeat."""


def encode_cells(cells: pa.Array, column: BaseColumn) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes (n,) int32 of a file's cells, and a mask (n,) of those that are not values of the column.

    Each different cell is converted once. Raise ArrowNotImplementedError for cells of another type.
    """
    if is_text(cells.type) and not pa.types.is_dictionary(cells.type):
        probe = cells.slice(0, PROBED)
        if len(probe.unique()) < len(probe) / 2:
            cells = cells.dictionary_encode()
    if not pa.types.is_dictionary(cells.type):
        parsed = parse_cells(cells, column)
        return column.encode(parsed.values), parsed.bad
    parsed = parse_cells(cells.dictionary, column)
    places = pc.fill_null(cells.indices, len(parsed.values)).to_numpy(zero_copy_only=False)
    null = column.encode(pa.nulls(1, column.type_of_values))
    return np.append(column.encode(parsed.values), null)[places], np.append(parsed.bad, False)[places]


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
