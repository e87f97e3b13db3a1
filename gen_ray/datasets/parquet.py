"""The source ``parquet``: tensors or a table in the user's Parquet files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.datasets.file_source import FileSource
from gen_ray.datasets.parquet_columns import (
    check_unique,
    described,
    element_type,
    image_axes,
    is_table,
    pictures_hint,
    stated_shape,
    usable_rows,
)
from gen_ray.datasets.rows import BadRow, Batch
from gen_ray.datasets.source import BATCH_VALUES, EXAMPLE_VALUES, check_used, checked_levels
from gen_ray.datasets.table_files import ParquetTables
from gen_ray.datasets.table_source import TABLE_OPTIONS
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError, argument
from gen_ray.tabular.inference import Finding
from gen_ray.tabular.plain_parquet import opened

TENSOR_OPTIONS = frozenset({"shape", "levels"})


@dataclass(frozen=True)
class _Part:
    """Consecutive rows of a file: the n usable ones as x (n, size) and labels (n,).

    The mask ``usable`` (rows,) is True for usable rows. ``x_usable`` (rows,) is True for rows with usable x, regardless
    of the label.
    """

    file: Path
    first: int
    x_usable: np.ndarray
    usable: np.ndarray
    x: np.ndarray
    labels: np.ndarray | None


class ParquetFiles(FileSource):
    """A table if the files have plain columns only, else tensors.

    Tensors are integers ≥ 0 in the column ``x`` (or the only column of lists or tensors), with labels in ``label`` if
    it exists. The column is a fixed-shape tensor (Arrow's or Ray's), a fixed-size list, or lists of equal length;
    ``shape`` overrides the shape of the type. One axis: tokens (L,). Two axes: a grey image (H, W). Three axes: an
    image (C, H, W), or (H, W, C) if only the last axis is 1, 3 or 4. The number of levels is the largest value + 1.
    """

    prefix, label = "parquet", "Parquet"
    used_options = TENSOR_OPTIONS | TABLE_OPTIONS

    @cached_property
    def schema(self) -> pa.Schema:
        """Return the schema of the first file."""
        with opened(self.files[0]) as file:
            return file.schema_arrow

    @cached_property
    def column(self) -> pa.Field:
        """Return the column of tensors. Raise UserError if it is ambiguous or does not hold integers."""
        check_unique("x", self.schema, self.files[0])
        fields = [field for field in self.schema if element_type(field.type) is not None]
        named = [field for field in self.schema if field.name == "x"] or fields
        if len(named) == 1 and element_type(named[0].type) is None:
            raise UserError(
                f"{self.files[0]}: column 'x' is {named[0].type}; store flat lists or fixed-shape tensors of integers "
                f"({argument('option', 'shape=…')}, or data.options.shape, says how a flat list is cut)"
                f"{pictures_hint(pa.schema(named))}"
            )
        if len(named) != 1:
            raise UserError(
                f"{self.files[0]}: needs a column named x, or else only one column of lists or tensors, with integers "
                f"from 0 to levels-1 in each row; its columns are {described(self.schema)}{pictures_hint(self.schema)}"
            )
        if not pa.types.is_integer(element_type(named[0].type)):
            raise UserError(
                f"{self.files[0]}: column {named[0].name!r} is {named[0].type}; store integers 0 to levels-1"
            )
        return named[0]

    @cached_property
    def labelled(self) -> bool:
        """Return whether the files have labels. Raise UserError if the labels are not integers."""
        if "label" not in self.schema.names:
            return False
        check_unique("label", self.schema, self.files[0])
        kind = self.schema.field("label").type
        if not pa.types.is_integer(kind):
            raise UserError(f"{self.files[0]}: column 'label' is {kind}; store integers from 0")
        return True

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the stored shape of an example."""
        shape = self.options.shape or stated_shape(self.column, self.files[0]) or self._first_length()
        if not shape:
            raise UserError(f"{self.path}: column {self.column.name!r} is empty; store at least one example")
        if not 1 <= len(shape) <= 3 or min(shape) < 1 or math.prod(shape) > EXAMPLE_VALUES:
            allowed = f"one to three axes and at most {EXAMPLE_VALUES:,} values are allowed"
            raise UserError(f"{self.files[0]}: examples of shape {shape}; {allowed}")
        return shape

    @cached_property
    def table(self) -> ParquetTables | None:
        """Return the source of a table, None for tensors. Raise UserError for settings without effect on tensors."""
        if not self.options.shape and is_table(self.schema):
            return ParquetTables(str(self.path), None, self.options)
        check_used(self.options, TENSOR_OPTIONS, "tensors, only on tables")
        return None

    @property
    def findings(self) -> Sequence[Finding]:
        """Return the columns of a table as they were found."""
        return self.table.findings if self.table else ()

    def spec(self) -> DataSpec:
        """Return the spec, after reading all files: for tensors, for the largest value and label."""
        if self.table:
            return self.table.spec()
        highest, last_label = 0, 0
        for part in self._parts():
            if isinstance(part, _Part) and len(part.x):
                highest = max(highest, int(part.x.max()))
                last_label = max(last_label, 0 if part.labels is None else int(part.labels.max()))
        levels = checked_levels(highest, f"{self.path}, column {self.column.name!r}")
        checked_levels(last_label, f"{self.path}, column 'label'")
        classes = range(last_label + 1 if self.labelled else 0)
        shape, _ = image_axes(self.shape)
        return DataSpec(
            name=self.name,
            kind="tokens" if len(shape) == 1 else "image",
            shape=shape,
            levels=levels,
            classes=tuple(map(str, classes)),
        )

    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield all rows. A row's identity is its file's path below ``base`` and its number in the file."""
        if self.table:
            yield from self.table.rows(spec)
            return
        _, axes = image_axes(self.shape)
        for part in self._parts():
            if isinstance(part, BadRow):
                yield part
                continue
            for i in np.flatnonzero(~part.usable):
                reason = f"a null or negative number, or not {math.prod(self.shape)} values in {self.column.name!r}"
                reason = "a null or negative number in 'label'" if part.x_usable[i] else reason
                yield BadRow(file=str(part.file), row=part.first + int(i), reason=reason)
            name = part.file.relative_to(self.base).as_posix()
            keys = [f"{name}#{part.first + i}" for i in np.flatnonzero(part.usable)]
            x = part.x.reshape(-1, *self.shape).transpose(0, *axes).reshape(-1, *spec.shape)
            yield Batch(x=x, keys=keys, labels=part.labels)

    def _first_length(self) -> tuple[int, ...]:
        """Return the length of the first non-null list as a shape, or () if all are null."""
        for file in self.files:
            for _, part in self._read(file, 1):
                if isinstance(part, pa.RecordBatch) and not part.column(self.column.name).null_count:
                    return (len(part.column(self.column.name)[0].as_py()),)
        return ()

    def _parts(self) -> Iterator[_Part | BadRow]:
        size = math.prod(self.shape)
        for file in self.files:
            for first, part in self._read(file, max(1, BATCH_VALUES // size)):
                if isinstance(part, BadRow):
                    yield part
                    continue
                x, x_usable = usable_rows(part.column(self.column.name), size)
                labels, usable = None, x_usable
                if self.labelled:
                    all_labels = pc.fill_null(part.column("label").cast(pa.int64(), safe=False), -1).to_numpy()
                    x, labels = x[all_labels[usable] >= 0], all_labels[usable & (all_labels >= 0)]
                    usable = usable & (all_labels >= 0)
                yield _Part(file, first, x_usable, usable, x, labels)

    def _read(self, path: Path, rows: int) -> Iterator[tuple[int, pa.RecordBatch | BadRow]]:
        """Yield (number of the first row, rows), or a BadRow for the rest of a row group that cannot be read."""
        columns = [self.column.name, *(["label"] if self.labelled else [])]
        with opened(path) as file:
            here = {field.name: field.type for field in file.schema_arrow}
            for name in columns:
                check_unique(name, file.schema_arrow, path)
                if here.get(name) != self.schema.field(name).type:
                    raise UserError(
                        f"{path}: column {name!r} is {here.get(name, 'missing')}, "
                        f"but {self.schema.field(name).type} in {self.files[0]}; use one type in all files"
                    )
            end = 0
            for group in range(file.num_row_groups):
                row, end = end, end + file.metadata.row_group(group).num_rows
                try:
                    for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                        yield row, batch
                        row += len(batch)
                except (OSError, pa.ArrowException) as error:
                    reason = " ".join(f"row group {group} cannot be read: {error}".split())[:200]
                    yield row, BadRow(file=str(path), row=row, rows=end - row, reason=reason)
