"""The reader of Parquet files with plain columns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen_ray.errors import UserError
from gen_ray.tabular.delimited import Rows, check_unique_names
from gen_ray.tabular.texts import is_text

CELLS = 2**20
"""Approximate number of cells of a block of rows."""


@dataclass
class ParquetTable:
    """A Parquet file.

    Creating it reads its schema. Raise UserError for files that cannot be read, or whose names are not unique.
    """

    path: Path
    cells: int = CELLS
    names: list[str] = field(init=False)
    schema: pa.Schema = field(init=False)

    def __post_init__(self) -> None:
        with opened(self.path) as file:
            self.schema = file.schema_arrow
        self.names = self.schema.names
        check_unique_names(self.names, self.path)

    def rows(self) -> Iterator[Rows]:
        """Yield all rows in order. Texts are in dictionaries. Raise UserError for damaged files."""
        texts = [item.name for item in self.schema if is_text(item.type)]
        first = 0
        with opened(self.path, texts) as file:
            try:
                for batch in file.iter_batches(max(1, self.cells // max(1, len(self.names))), use_threads=False):
                    yield Rows(np.arange(first, first + len(batch)), batch)
                    first += len(batch)
            except (OSError, pa.ArrowException) as error:
                reason = " ".join(f"rows from {first} on cannot be read ({error})".split())[:300]
                raise UserError(f"{self.path}: {reason}") from None


def is_parquet(path: Path) -> bool:
    """Return whether a file is a Parquet file, by its suffix or its first bytes."""
    if path.suffix.lower() in (".parquet", ".pq"):
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PAR1"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def opened(path: Path, dictionaries: list[str] | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file and check its schema. Texts of the named columns are read as dictionaries."""
    try:
        file = pq.ParquetFile(
            path, page_checksum_verification=True, buffer_size=2**20, pre_buffer=False, read_dictionary=dictionaries
        )
        _ = file.schema_arrow  # Ray's column types, if registered, read their metadata here
    except (OSError, ValueError, TypeError, ArithmeticError, RecursionError, pa.ArrowException) as error:
        raise UserError(" ".join(f"{path}: not a readable Parquet file ({error})".split())[:300]) from error
    with file:
        yield file
