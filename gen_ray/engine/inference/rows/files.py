"""The content of the files of a block, and the file that the blocks of a whole input make up."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.rows.texts import as_texts, csv_header, csv_lines
from gen_ray.engine.inference.texts import decode_tokens

CSV, PARQUET = ".csv", ".parquet"
SUFFIXES = (CSV, PARQUET)
GROUP_ROWS = 65_536
"""Minimum number of rows of a row group of a Parquet file that is assembled from blocks."""


@dataclass(frozen=True)
class FileContent:
    """The bytes of a CSV or Parquet file, and the number of those of the header of a CSV file."""

    content: bytes
    header_bytes: int = 0


def encode_file(
    table: pa.Table, suffix: str, delimiter: str = ",", marks: Mapping[str, pa.Array] = MappingProxyType({})
) -> FileContent:
    """Return rows as a CSV or Parquet file. marks are those of ``csv_lines`` by column."""
    if suffix == PARQUET:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        return FileContent(sink.getvalue().to_pybytes())
    names = table.schema.names
    columns = [as_texts(table.column(name).combine_chunks(), name) for name in names]
    header = csv_header(names, delimiter)
    return FileContent(header + csv_lines(columns, delimiter, [marks.get(name) for name in names]), len(header))


def assemble(parts: Sequence[Path], header_bytes: int, out: Path) -> None:
    """Write the rows of CSV or Parquet files with the same columns to one file, in order.

    header_bytes is the length of the header of CSV files, which is written once.
    """
    if parts[0].suffix == PARQUET:
        _assemble_parquet(parts, out)
        return
    with out.open("wb") as target:
        for index, part in enumerate(parts):
            with part.open("rb") as source:
                source.seek(header_bytes if index else 0)
                shutil.copyfileobj(source, target, 2**20)


def _assemble_parquet(parts: Sequence[Path], out: Path) -> None:
    with pq.ParquetWriter(out, pq.read_schema(parts[0]), compression="zstd", write_page_checksum=True) as writer:
        waiting: list[pa.Table] = []
        for part in parts:
            waiting.append(pq.read_table(part, page_checksum_verification=True))
            if sum(map(len, waiting)) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting), GROUP_ROWS * 2)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), GROUP_ROWS * 2)


def example_table(first: int, x: np.ndarray, spec: DataSpec) -> pa.Table:
    """Return samples (n, *shape) of images or texts as rows: their numbers, the values, and the texts.

    ``gen-ray prepare parquet:GLOB`` reads such files.
    """
    x = x.astype(spec.storage_dtype)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), spec.dims)
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(x.dtype), spec.shape)
    columns = {
        "row": pa.array(np.arange(first, first + len(x))),
        "x": pa.ExtensionArray.from_storage(kind, flat),
    }
    if spec.is_text:
        columns["text"] = pa.array([decode_tokens(tokens, spec) for tokens in x])
    return pa.table(columns)
