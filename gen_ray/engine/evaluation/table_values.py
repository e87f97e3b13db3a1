"""Rows of a table of data as matrices of numbers, in which real and synthetic rows are treated alike."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.dataspec import DataSpec
from gen_ray.tabular import codec
from gen_ray.tabular.columns import MISSING, BaseColumn, OrderedColumn


def decoded(codes: np.ndarray, spec: DataSpec, *, seed: int) -> pa.Table:
    """Return the values of codes (N, D) as a table; the value that a code stands for is drawn by the seed."""
    u = np.random.default_rng(seed).random(codes.shape)
    return codec.decode(codes, spec.columns, u)


def matrices(columns: Sequence[BaseColumn], *tables: pa.Table) -> list[np.ndarray]:
    """Return each table's values as (N, D) float64: the numbers of ordered columns, codes of the others.

    A value has the same code in all tables. NaN where a value is missing.
    """
    found = [np.empty((len(table), len(columns))) for table in tables]
    for d, column in enumerate(columns):
        values = [table.column(column.name).combine_chunks() for table in tables]
        is_ordered = isinstance(column, OrderedColumn)
        codes = [numbers(column, one) for one in values] if is_ordered else _codes(values)
        for matrix, one in zip(found, codes, strict=True):
            matrix[:, d] = one
    return found


def numbers(column: BaseColumn, values: pa.Array) -> np.ndarray:
    """Return values (n,) as float64: the numbers of an ordered column, codes of another one; NaN where missing."""
    if isinstance(column, OrderedColumn):
        found = column.as_numbers(values).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return np.asarray(found, dtype=np.float64)
    codes = column.encode(values)
    return np.where(codes == MISSING, np.nan, codes)


def matrix(codes: np.ndarray, spec: DataSpec, *, seed: int) -> np.ndarray:
    """Return codes (N, D) as ``numbers`` (N, D); the value that a code stands for is drawn by the seed."""
    table = decoded(codes, spec, seed=seed)
    return np.column_stack([numbers(column, table.column(column.name).combine_chunks()) for column in spec.columns])


def ordered(columns: Sequence[BaseColumn]) -> np.ndarray:
    """Return whether each column is ordered, (D,) bool."""
    return np.array([column.ordered for column in columns], dtype=bool)


def _codes(values: Sequence[pa.Array]) -> list[np.ndarray]:
    """Return the index of each value in the list of all different values, as float64."""
    texts = [one.cast(pa.string()) for one in values]
    known = pc.unique(pa.concat_arrays(texts)).drop_null()
    indices = (pc.index_in(one, known, skip_nulls=True).cast(pa.float64()) for one in texts)
    return [one.to_numpy(zero_copy_only=False) for one in indices]
