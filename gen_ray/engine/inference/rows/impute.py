"""Imputation of a file: every missing cell gets a value and an interval; known cells do not change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.rows import chains, statistics
from gen_ray.engine.inference.rows.blocks import FileBlocks, RowBlock
from gen_ray.engine.inference.rows.cell_types import check_fits, fitted
from gen_ray.engine.inference.rows.files import PARQUET, encode_file
from gen_ray.engine.inference.rows.results import BlockResult
from gen_ray.engine.inference.rows.statistics import CellSummary, Fill
from gen_ray.engine.inference.rows.texts import as_texts
from gen_ray.errors import UserError, argument
from gen_ray.tabular import codec
from gen_ray.tabular.columns import MISSING, BaseColumn

COVERAGE = 0.9
"""Default coverage of the prediction intervals."""
MAIN, COMPLETIONS = "rows", "completions"
"""The files of a block: the filled rows, and all completions."""


PlacedSummary = tuple[np.ndarray, CellSummary]
"""The rows (M,) of a block in which a column's missing cells are, and the summary of these cells."""


@dataclass(frozen=True, kw_only=True)
class ImputeTask:
    """The settings of an imputation: the file, k completions, how cells are filled, the coverage of the intervals.

    coverage None writes no intervals. with_completions writes all completions of the incomplete rows, in long form.
    suffix is that of the filled file. exact: cells are summarised by the family's exact marginals, not by the draws.
    Completion j of row i is a function of (seed, i·k + j).
    """

    source: FileBlocks
    suffix: str
    k: int
    fill: Fill
    coverage: float | None
    with_completions: bool
    exact: bool
    seed: int
    imputer: str | None = None
    steps: int | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return everything but the file that the output depends on."""
        names = ("suffix", "k", "fill", "coverage", "with_completions", "exact", "seed", "imputer", "steps")
        return {name: getattr(self, name) for name in names}

    @property
    def draws(self) -> bool:
        """Return whether completions have to be drawn."""
        return self.with_completions or self.fill == "draw" or not self.exact

    @property
    def filled_columns(self) -> list[int]:
        """Return the indices of the model's columns that have missing cells in the file."""
        return [d for d, count in enumerate(self.source.missing) if count]

    def extra_names(self) -> list[str]:
        """Return the names of the columns of uncertainty. Raise UserError where the file has one of them already."""
        if self.coverage is None:
            return []
        columns = [self.source.columns[d] for d in self.filled_columns]
        suffixes = {True: ("_low", "_high"), False: ("_probability",)}
        names = [f"{column.name}{end}" for column in columns for end in suffixes[column.ordered]]
        if taken := sorted(set(names) & {*self.source.names, *(column.name for column in self.source.columns)}):
            remedy = f"rename it, or leave the intervals out with {argument('intervals', 'none')}"
            raise UserError(f"{self.source.path}: has a column {taken[0]!r} already; {remedy}")
        return names

    def check(self) -> None:
        """Raise UserError if the output cannot hold a value or a column."""
        self.extra_names()
        if self.suffix != PARQUET:
            self.source.check_texts()
            return
        for column in (self.source.columns[d] for d in self.filled_columns):
            kind = self.source.types.get(column.name)
            if kind is not None and self.source.is_parquet:
                check_fits(column, kind, str(self.source.path))

    def run(self, model: Model, device: torch.device, block: RowBlock) -> BlockResult:
        """Return the filled rows of a block, and the completions."""
        columns = self.source.columns
        codes = self.source.encode(block.values)
        incomplete = np.flatnonzero((codes == MISSING).any(1))
        rows = block.first + incomplete
        with autocast(model.experiment.training.precision, device):
            drawn = self._completions(model, device, codes[incomplete], rows) if self.draws else None
            found = self._summaries(model, device, codes[incomplete], drawn)
        summaries = {d: (incomplete[codes[incomplete, d] == MISSING], cells) for d, cells in found.items()}
        marks = block.marks({columns[d].name: at for d, (at, _) in summaries.items()})
        files = {MAIN: encode_file(self.filled(block, summaries), self.suffix, self.source.delimiter, marks)}
        if self.with_completions:
            assert drawn is not None
            values = block.values.take(pa.array(np.repeat(incomplete, self.k)))
            files[COMPLETIONS] = encode_file(self._long(values, rows, drawn), PARQUET)
        return BlockResult(block.index, block.rows, files)

    def _completions(
        self, model: Model, device: torch.device, codes: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return k completions of rows with codes (n, D), and the uniforms that select their values: (n, k, D)."""
        k = self.k if self.with_completions or not self.exact else 1
        imputers = model.family.imputers()
        chain = model.family.impute(self.imputer or next(iter(imputers)), self.steps)
        return chains.completions(model, chain, rows[:, None] * self.k + np.arange(k), self.seed, device, codes)

    def _summaries(
        self, model: Model, device: torch.device, codes: np.ndarray, drawn: tuple[np.ndarray, np.ndarray] | None
    ) -> dict[int, CellSummary]:
        """Return the summaries of the missing cells of each column, for incomplete rows with codes (n, D)."""
        found, missing = dict[int, list[CellSummary]](), codes == MISSING
        for part in chains.batches(len(codes), chains.batch_rows(model.spec)):
            p = chains.marginals(model, codes[part], device) if self.exact else None
            for d in self.filled_columns:
                at = missing[part, d]
                mine = [values[part][at, :, d] for values in drawn or ()]
                found.setdefault(d, []).append(self._summary(d, None if p is None else p[:, d], at, mine))
        return {d: statistics.concatenated(parts) for d, parts in found.items()}

    def _summary(self, d: int, p: torch.Tensor | None, at: np.ndarray, drawn: Sequence[np.ndarray]) -> CellSummary:
        """Return the summary of column d's M missing cells, at (n,), from marginals p (n, K) or draws, each (M, k)."""
        column, coverage = self.source.columns[d], self.coverage or COVERAGE
        if p is None:
            return statistics.of_draws(column, drawn[0], drawn[1], self.fill, coverage)
        mine = p[torch.from_numpy(at).to(p.device), : column.cardinality].cpu().numpy()
        first = (drawn[0][:, 0], drawn[1][:, 0]) if drawn else None
        return statistics.of_marginals(column, mine, self.fill, coverage, first)

    def filled(self, block: RowBlock, summaries: Mapping[int, PlacedSummary]) -> pa.Table:
        """Return all columns of a block, with missing cells of the model's columns filled, then the uncertainty.

        summaries: for each column with missing cells, the rows (M,) of the block in which they are, and their summary.
        """
        index = {column.name: d for d, column in enumerate(self.source.columns)}
        made = dict[str, pa.Array]()
        for name in [*block.cells.schema.names, *self.source.absent]:
            d = index.get(name)
            cells = block.cells.column(name).combine_chunks() if name in block.cells.schema.names else None
            if d is None:
                made[name] = self._unused(cells, name)
            else:
                values = block.values.column(name).combine_chunks()
                made[name] = self._filled_column(self.source.columns[d], values, cells, summaries.get(d))
        names = iter(self.extra_names())
        for d in self.filled_columns if self.coverage is not None else ():
            rows, summary = summaries.get(d, (np.empty(0, np.int64), None))
            for values in _uncertainty(self.source.columns[d], summary):
                name, column = next(names), self.source.columns[d]
                made[name] = self._output(_scattered(values, rows, block.rows), name, column)
        return pa.table(made)

    def _filled_column(
        self,
        column: BaseColumn,
        values: pa.Array,
        cells: pa.Array | None,
        missing: tuple[np.ndarray, CellSummary] | None,
    ) -> pa.Array:
        """Return a column's cells (n,), or its values if the cells are untyped, with the missing ones filled."""
        rows, summary = missing or (np.empty(0, np.int64), None)
        filled = _scattered(values.slice(0, 0) if summary is None else summary.values, rows, len(values))
        kept = values if cells is None else cells
        if self.suffix != PARQUET:
            filled, kept = as_texts(filled, column.name, column), as_texts(kept, column.name, column)
        elif self.source.is_parquet and cells is not None and not pa.types.is_null(cells.type):
            filled = fitted(filled, column, cells.type)
        else:
            kept = values
        at = np.zeros(len(values), bool)
        at[rows] = True
        return pc.if_else(pa.array(at), filled, kept)

    def _unused(self, cells: pa.Array, name: str) -> pa.Array:
        return cells if self.suffix == PARQUET else as_texts(cells, name)

    def _output(self, values: pa.Array, name: str, column: BaseColumn) -> pa.Array:
        return values if self.suffix == PARQUET else as_texts(values, name, column)

    def _long(self, values: pa.Table, rows: np.ndarray, drawn: tuple[np.ndarray, np.ndarray]) -> pa.Table:
        """Return completions (n·k, D) with the row and the number of each; known values are those of the file."""
        made = {
            "row": pa.array(np.repeat(rows, self.k)),
            "completion": pa.array(np.tile(np.arange(self.k, dtype=np.int32), len(rows))),
        }
        codes, u = (part.reshape(-1, part.shape[-1]) for part in drawn)
        for name, cells in zip(values.schema.names, codec.decode(codes, self.source.columns, u).columns, strict=True):
            made[name] = pc.coalesce(values.column(name).combine_chunks(), cells.combine_chunks())
        return pa.table(made)


def _uncertainty(column: BaseColumn, summary: CellSummary | None) -> list[pa.Array]:
    if summary is None:
        kind = column.type_of_values if column.ordered else pa.float64()
        return [pa.nulls(0, kind)] * (2 if column.ordered else 1)
    return [summary.low, summary.high] if column.ordered else [pa.array(summary.probability)]


def _scattered(values: pa.Array, rows: np.ndarray, n: int) -> pa.Array:
    """Return an array (n,) with values (M,) at rows (M,), null elsewhere."""
    index = np.full(n, -1)
    index[rows] = np.arange(len(rows))
    return values.take(pa.array(index, mask=index < 0))
