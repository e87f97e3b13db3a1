"""The writer of a split as Parquet shards, with one shard in memory at a time."""

import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen_ray.dataspec import DataSpec
from gen_ray.errors import RunError


@dataclass
class ShardWriter:
    """Writer of the rows of a split. It writes a file for about every shard_bytes of x.

    ``written`` holds (rows, SHA-256) of every file by name.
    """

    folder: Path
    split: str
    spec: DataSpec
    shard_bytes: int
    written: dict[str, tuple[int, str]] = field(default_factory=dict)
    rows: int = 0

    def __post_init__(self) -> None:
        dtype = self.spec.storage_dtype
        capacity = max(1, self.shard_bytes // (self.spec.dims * dtype.itemsize))
        self._x = np.empty((capacity, *self.spec.shape), dtype)
        self._labels = np.empty(capacity, np.int32)
        self._filled = 0

    def add(self, x: np.ndarray, labels: np.ndarray | None) -> None:
        """Append rows: x (n, *shape) integers in {0 … levels-1}, labels (n,) if the data have classes."""
        while len(x):
            n = min(len(x), len(self._x) - self._filled)
            where = slice(self._filled, self._filled + n)
            self._x[where] = x[:n]
            if labels is not None:
                self._labels[where], labels = labels[:n], labels[n:]
            x, self._filled = x[n:], self._filled + n
            if self._filled == len(self._x):
                self.flush()

    def flush(self) -> None:
        """Write the collected rows, if any."""
        if not self._filled:
            return
        name = f"{self.split}-{len(self.written):05d}.parquet"
        self.written[name] = self._filled, write_durably(self.folder / name, self._parquet())
        self.rows, self._filled = self.rows + self._filled, 0

    def _parquet(self) -> pa.Buffer:
        x = self._x[: self._filled]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), self.spec.dims)
        kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(x.dtype), self.spec.shape)
        columns = {
            "row": pa.array(np.arange(self.rows, self.rows + len(x))),
            "x": pa.ExtensionArray.from_storage(kind, flat),
        }
        if self.spec.classes:
            columns["label"] = pa.array(self._labels[: self._filled])
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True, row_group_size=len(x))
        return sink.getvalue()


def write_durably(path: Path, content: bytes | pa.Buffer) -> str:
    """Write a file with fsync and return its SHA-256. Raise RunError, e.g. when the disk is full."""
    try:
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); nothing was prepared") from error
    return sha256(content).hexdigest()
