"""The reader of prepared data sets. Shards are checked by their SHA-256 before they are parsed."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen_ray.datasets.prepared import DataError, Prepared, Shard, checked_bytes
from gen_ray.errors import one_line

__all__ = ["DataError", "Shard", "load_split", "read_shard", "to_numpy"]


def read_shard(shard: Shard) -> pa.Table:
    """Return a shard's rows: ``row`` int64, ``x`` a fixed-shape tensor, ``label`` int32 if the data have labels.

    Raise DataError with the file if it is missing, empty, truncated or differs in a single bit.
    """
    content = checked_bytes(shard.path, shard.sha256)
    try:
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(shard.path, f"not a readable Parquet file ({one_line(error)})") from error
    if len(table) != shard.rows:
        raise DataError(shard.path, f"{len(table)} rows, where {shard.rows} were written")
    return table


def to_numpy(table: pa.Table, column: str = "x") -> np.ndarray:
    """Return a column as a read-only array (n, *shape), without copying if the table has only one chunk."""
    array = table.column(column).combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # the result of pyarrow for a table without rows
        array = array.chunk(0)
    return array.to_numpy_ndarray() if isinstance(array, pa.FixedShapeTensorArray) else array.to_numpy()


def load_split(prepared: Prepared, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a whole split in memory: x (n, *shape) uint8 or int32, and labels (n,) int32 or None."""
    n = prepared.rows[split] if split in prepared.rows else len(prepared.shards(split))
    x = np.empty((n, *prepared.spec.shape), prepared.spec.storage_dtype)
    labels = np.empty(n, np.int32) if prepared.spec.classes else None
    for shard in prepared.shards(split):
        table, where = read_shard(shard), slice(shard.first_row, shard.first_row + shard.rows)
        x[where] = to_numpy(table)
        if labels is not None:
            labels[where] = to_numpy(table, "label")
    return x, labels
