"""The common part of sources of tables: typed columns from a first pass over the rows, and codes from a second one."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from gen_ray.datasets.rows import SPLITS, TRAIN, BadRow, Batch, RowNumbers, split_indices
from gen_ray.datasets.source import DataSource
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError, nearest, one_line
from gen_ray.tabular.codec import encode_cells
from gen_ray.tabular.delimited import RaggedRow, Rows
from gen_ray.tabular.inference import Finding, infer
from gen_ray.tabular.intervals import examples_per_code
from gen_ray.tabular.parse import describe
from gen_ray.tabular.row_hashes import HIDE, SAMPLE, row_hashes
from gen_ray.tabular.statistics import ColumnStatistics, retained_per_column
from gen_ray.tabular.texts import shown

TABLE_OPTIONS = frozenset({"missing", "bins", "max_categories", "columns", "target", "hide_share"})


class TableSource(DataSource):
    """A source of the rows of a table. Intervals and categories are those of the training rows."""

    used_options = TABLE_OPTIONS
    target: str | None = None
    """The column that the table is used to predict, unless the user names another one."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of the columns. Raise UserError if the files do not agree."""

    @abstractmethod
    def blocks(self) -> Iterator[tuple[str, Rows | RaggedRow]]:
        """Yield all rows in order, with the name of their file."""

    def visible_blocks(self) -> Iterator[tuple[str, Rows | RaggedRow]]:
        """Yield all rows, of which the share ``hide_share`` of the training and validation values is null."""
        for file, rows in self.blocks():
            if isinstance(rows, Rows) and self.options.hide_share:
                yield file, hide_cells(file, rows, self.options.hide_share)
            else:
                yield file, rows

    @cached_property
    def findings(self) -> list[Finding]:
        """Return the type and codes of each column, from one pass over the rows. Raise UserError."""
        self.options.check_names(self.columns)
        limit = retained_per_column(len(self.columns))
        statistics = {name: ColumnStatistics(self.options.markers(name), limit) for name in self.columns}
        total = 0
        for file, rows in self.visible_blocks():
            if isinstance(rows, Rows):
                add_rows(statistics, file, rows)
                total += len(rows.numbers)
        if not any(column.rows for column in statistics.values()):
            found = f"{total} usable rows, which leave the train split empty" if total else "a header without rows"
            raise UserError(f"{self.where}: {found}; provide more (100 are nearly always enough)")
        examples = examples_per_code(len(self.columns), self.options.bins)
        return [infer(name, column, self.options, self.where, examples) for name, column in statistics.items()]

    @property
    def where(self) -> str:
        """Return the place of the data in messages."""
        return str(self.path)

    def spec(self) -> DataSpec:
        """Return the typed columns of the table. Raise UserError."""
        columns = tuple(finding.column for finding in self.findings if finding.column is not None)
        if not columns:
            raise UserError(f"{self.where}: all columns are left out; the first: {self.notes()[0]}")
        names, target = [column.name for column in columns], self.options.target or self.target
        if target is not None and target not in names:
            [reason] = [finding.left_out for finding in self.findings if finding.name == target]
            raise UserError(f"data.options.target={target}: is left out ({reason}); {nearest(target, names)}")
        return DataSpec(
            name=self.name,
            kind="table",
            shape=(len(columns),),
            levels=max(2, *(column.cardinality for column in columns)),
            columns=columns,
            target=target,
        )

    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield the codes of all rows. A row's identity is its file's name and its number in the file."""
        for file, rows in self.visible_blocks():
            if isinstance(rows, RaggedRow):
                yield BadRow(file=file, row=rows.row, reason=str(rows))
                continue
            x, bad = encode_rows(rows, spec, self.where)
            for i in np.flatnonzero(bad):
                yield BadRow(file=file, row=int(rows.numbers[i]), reason=_reason(rows.cells.slice(i, 1), spec))
            good = ~bad
            yield Batch(x=x[good], keys=RowNumbers(file, rows.numbers[good]))


def hide_cells(file: str, rows: Rows, share: float) -> Rows:
    """Return rows of a file with a share of the cells null, a function of row and column; test rows do not change."""
    learned = split_indices(Batch(x=rows.numbers, keys=RowNumbers(file, rows.numbers))) != SPLITS.index("test")
    places, cells = np.arange(len(rows.numbers)), []
    for name in rows.cells.schema.names:
        u = row_hashes(f"{name}/{file}", rows.numbers, HIDE) / 2.0**64
        cells.append(rows.cells.column(name).take(pa.array(places, mask=learned & (u < share))))
    return Rows(rows.numbers, pa.record_batch(cells, names=rows.cells.schema.names))


def add_rows(statistics: dict[str, ColumnStatistics], file: str, rows: Rows) -> None:
    """Add rows of a file to the statistics of their columns."""
    keys = RowNumbers(file, rows.numbers)
    training = split_indices(Batch(x=rows.numbers, keys=keys)) == TRAIN
    hashes = row_hashes(file, rows.numbers, SAMPLE)
    for name, column in statistics.items():
        column.add(rows.cells.column(name), training, hashes)


def encode_rows(rows: Rows, spec: DataSpec, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes (n, D) of rows, and a mask (n,) of rows with cells that are not values of their column."""
    x = np.empty((len(rows.cells), len(spec.columns)), spec.storage_dtype)
    bad = np.zeros(len(x), bool)
    for d, column in enumerate(spec.columns):
        try:
            x[:, d], wrong = encode_cells(rows.cells.column(column.name), column)
        except pa.ArrowNotImplementedError as error:
            fault = f"cannot be converted to {column.arrow_type} ({one_line(error)})"
            raise UserError(f"{where}: column {column.name!r} {fault}") from None
        bad |= wrong
    return x, bad


def _reason(row: pa.RecordBatch, spec: DataSpec) -> str:
    """Return the first cell of a row (1, …) that is not a value of its column."""
    wrong = next(column for column in spec.columns if encode_cells(row.column(column.name), column)[1].any())
    return f"{shown(row.column(wrong.name)[0])} in column {wrong.name!r} is not {describe(wrong)}"
