"""Sources of tables in files: ``csv``, and the plain columns of ``parquet``."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from gen_ray.datasets.file_source import FileSource
from gen_ray.datasets.source import plain_name
from gen_ray.datasets.table_source import TABLE_OPTIONS, TableSource
from gen_ray.errors import LISTED, UserError
from gen_ray.tabular.delimited import CsvFile, CsvOptions, RaggedRow, Rows
from gen_ray.tabular.plain_parquet import ParquetTable
from gen_ray.tabular.text_streams import COMPRESSIONS
from gen_ray.tabular.texts import is_text


class TableFiles(TableSource, FileSource):
    """A table in one or more files with the same columns, in any order."""

    @cached_property
    def columns(self) -> list[str]:
        """Return the names of the columns. Raise UserError naming a file whose columns are others."""
        first = self.names(self.files[0])
        for file in self.files[1:]:
            check_same(first, self.files[0], self.names(file), file)
        return first

    def names(self, file: Path) -> list[str]:
        """Return the names of a file's columns. Raise UserError."""
        return self.opened(file).names

    def opened(self, file: Path) -> CsvFile | ParquetTable:
        """Return the reader of a file. Raise UserError."""
        raise NotImplementedError

    def blocks(self) -> Iterator[tuple[str, Rows | RaggedRow]]:
        """Yield all rows in order, with the name of their file below ``base``."""
        for file in self.files:
            for rows in self.opened(file).rows():
                yield file.relative_to(self.base).as_posix(), rows


class CsvFiles(TableFiles):
    """CSV files whose first row has the names of the columns, also compressed (.gz, .bz2, .zst)."""

    prefix, label = "csv", "CSV"
    used_options = TABLE_OPTIONS | {"delimiter", "encoding"}

    @property
    def name(self) -> str:
        """Return the file's name without its suffixes, or for a pattern the name of ``base``."""
        compressed = self.path.is_file() and self.path.suffix.lower() in COMPRESSIONS
        return plain_name(Path(self.path.stem).stem) if compressed else super().name

    def opened(self, file: Path) -> CsvFile:
        """Return the reader of a file. Raise UserError."""
        return CsvFile(file, CsvOptions(self.options.delimiter, self.options.encoding))


class ParquetTables(TableFiles):
    """Parquet files with plain columns."""

    prefix, label = "parquet", "Parquet"

    @cached_property
    def columns(self) -> list[str]:
        """Return the names of the columns. Raise UserError naming a file whose columns have other names or types."""
        names = super().columns
        types = dict[str, tuple[pa.DataType, Path]]()  # those of the first file with values
        for file in self.files:
            here, other = self.opened(file).schema, []
            for name in names:
                kind, (first, _) = here.field(name).type, types.get(name, (here.field(name).type, file))
                if pa.types.is_null(first) or name not in types:
                    types[name] = kind, file
                elif not _alike(first, kind):
                    other.append(name)
            if other:
                listed = ", ".join(f"{n!r} ({here.field(n).type}, not {types[n][0]})" for n in other[:LISTED])
                in_file = types[other[0]][1]
                raise UserError(f"{file}: columns of other types than in {in_file}: {listed}; convert them")
        return names

    def opened(self, file: Path) -> ParquetTable:
        """Return the reader of a file. Raise UserError."""
        return ParquetTable(file)


def check_same(first: Sequence[str], in_file: Path, names: Sequence[str], file: Path) -> None:
    """Raise UserError unless two files have the same columns."""
    missing, more = [n for n in first if n not in set(names)], [n for n in names if n not in set(first)]
    faults = [f"lacks the columns {_listed(missing)}"] if missing else []
    faults += [f"has the further columns {_listed(more)}"] if more else []
    if faults:
        raise UserError(f"{file}: {' and '.join(faults)}, compared with {in_file}; use the same columns in all files")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def _alike(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether columns of two types can be one column. A file without any value may have the type null."""
    return one == other or (is_text(one) and is_text(other)) or pa.types.is_null(other)
