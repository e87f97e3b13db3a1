"""Scores of a file: the bits of every row, and of every cell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.rows import chains
from gen_ray.engine.inference.rows.blocks import FileBlocks, RowBlock
from gen_ray.engine.inference.rows.cell_bits import conditional_bits
from gen_ray.engine.inference.rows.files import PARQUET, encode_file
from gen_ray.engine.inference.rows.impute import MAIN
from gen_ray.engine.inference.rows.results import BlockResult
from gen_ray.engine.inference.rows.texts import as_texts
from gen_ray.engine.inference.score import bits_per_dim
from gen_ray.errors import UserError
from gen_ray.maths.noise import generator

BITS, UNUSUAL = "bits", "most_unusual"
EXPECTATION_ROWS = 1024
"""Rows drawn from the model, whose mean bits per column are what a value of the column is expected to cost."""
SHOWN = 5
"""Rows of a file that are reported as the most unusual."""
LEAST_RANK = -1e9
"""Rank of a row without known values: JSON has no infinity."""


@dataclass(frozen=True)
class ExpectedBits:
    """The mean bits of rows of the model itself, and (D,) of each column's cells, or None if it does not give those."""

    row: float
    cells: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """The settings of scores: the file, the family's effort, and the bits that are expected.

    The column of a row whose bits exceed the expected ones the most is its most unusual one.
    """

    source: FileBlocks
    suffix: str
    effort: int
    seed: int
    expected: ExpectedBits

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return everything but the file that the output depends on."""
        return {"suffix": self.suffix, "effort": self.effort, "seed": self.seed}

    def names(self) -> list[str]:
        """Return the names of the columns that are added. Raise UserError where the file has one already."""
        cells = [f"{column.name}_bits" for column in self.source.columns] if self.expected.cells is not None else []
        names = [BITS, *([UNUSUAL] if cells else []), *cells]
        if taken := [name for name in names if name in self.source.names]:
            raise UserError(f"{self.source.path}: has a column {taken[0]!r} already; rename it")
        return names

    def check(self) -> None:
        """Raise UserError if the output cannot hold a column."""
        self.names()
        if self.suffix != PARQUET:
            self.source.check_texts()

    def run(self, model: Model, device: torch.device, block: RowBlock) -> BlockResult:
        """Return the rows of a block with their scores."""
        codes = self.source.encode(block.values)
        found = Bits.of(model, codes, self.effort, (self.seed, block.first), device)
        text = self.suffix != PARQUET
        cells = {name: block.cells.column(name).combine_chunks() for name in block.cells.schema.names}
        made = {name: as_texts(values, name) if text else values for name, values in cells.items()}
        made.update(zip(self.names(), self._columns(found, codes), strict=True))
        statistics = self._statistics(found, codes, block.first)
        content = encode_file(pa.table(made), self.suffix, self.source.delimiter, block.marks())
        return BlockResult(block.index, block.rows, {MAIN: content}, statistics)

    def _columns(self, found: "Bits", codes: np.ndarray) -> list[pa.Array]:
        """Return the added columns; the bits of missing cells are null."""
        if self.expected.cells is None:
            return [pa.array(found.rows)]
        cells = np.empty(codes.shape) if found.cells is None else found.cells  # None: a block without rows
        names, nothing = pa.array([column.name for column in self.source.columns]), (codes < 0).all(1)
        unusual = names.take(pa.array(self._excess(cells, codes).argmax(1), mask=nothing))
        by_cell = [pa.array(cells[:, d], mask=codes[:, d] < 0) for d in range(codes.shape[1])]
        return [pa.array(found.rows), unusual, *by_cell]

    def _excess(self, cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the bits (n, D) of cells above those that are expected, -inf where a value is missing."""
        return np.where(codes < 0, -np.inf, cells - np.array(self.expected.cells))

    def _statistics(self, found: "Bits", codes: np.ndarray, first: int) -> dict[str, Any]:
        """Return the sum of the bits and the most unusual rows, which ``summary`` combines.

        The rank of a row is the largest excess of its cells, or its bits if the bits of cells are not known.
        """
        cells, expected = found.cells, self.expected.cells
        excess = None if cells is None or expected is None else self._excess(cells, codes)
        rank = found.rows if excess is None else excess.max(1).clip(min=LEAST_RANK)
        rows = []
        for i in np.argsort(-rank, kind="stable")[:SHOWN].tolist():
            cell = None
            if excess is not None and cells is not None and expected is not None and (codes[i] >= 0).any():
                d = int(excess[i].argmax())
                cell = [self.source.columns[d].name, float(cells[i, d]), expected[d]]
            rows.append([float(rank[i]), first + i, float(found.rows[i]), cell])
        return {"bits": float(found.rows.sum()), "rows": len(found.rows), "kind": found.kind, "top": rows}


@dataclass(frozen=True)
class Bits:
    """Bits of rows (n,) and, if the family gives them, of cells (n, D); the kind of bound.

    The bits of a cell are those given all other known cells, or without exact marginals its part of the row's bound.
    """

    rows: np.ndarray
    cells: np.ndarray | None
    kind: str

    @classmethod
    def of(cls, model: Model, codes: np.ndarray, effort: int, seed: tuple[int, ...], device: torch.device) -> "Bits":
        """Score codes (n, D); the noise of each batch is a function of (seed, its place)."""
        nats: list[Tensor] = []
        cells: list[np.ndarray] = []
        kind = ""
        # Not in inference mode: the density of a flow needs gradients
        with autocast(model.experiment.training.precision, device), torch.no_grad():
            for part in chains.batches(len(codes), chains.batch_rows(model.spec)):
                x = torch.from_numpy(codes[part]).to(device)
                nll = model.family.nll(model.net, x, generator(*seed, part.start, device=device), effort=effort)
                nats.append(nll.nats.double().cpu())
                given_others = conditional_bits(model, codes[part], device)
                if given_others is None and nll.cells is not None:
                    given_others = bits_per_dim(nll.cells.double().cpu(), 1).numpy()
                cells += [] if given_others is None else [given_others]
                kind = nll.kind if nll.kind.endswith("-partial") or not kind else kind
        rows = bits_per_dim(torch.cat(nats), 1).numpy() if nats else np.empty(0)
        return cls(rows, np.concatenate(cells) if cells else None, kind)


def expected_bits(model: Model, effort: int, device: torch.device) -> ExpectedBits:
    """Return the mean bits of rows drawn from the model, and of their cells. They are a function of the model only."""
    rows = np.arange(EXPECTATION_ROWS)
    with autocast(model.experiment.training.precision, device):
        drawn = chains.draw(model, model.experiment.chain(model.family), rows, 0, device).astype(np.int32)
    found = Bits.of(model, drawn, effort, (0,), device)
    return ExpectedBits(float(found.rows.mean()), None if found.cells is None else tuple(found.cells.mean(0).tolist()))


def summary(statistics: Iterable[Mapping[str, Any]], expected: ExpectedBits) -> list[str]:
    """Return lines on the statistics of all blocks: the mean, and the most unusual rows with their cells."""
    blocks = list(statistics)
    rows = sum(block["rows"] for block in blocks)
    if not rows:
        return []
    kinds = {block["kind"] for block in blocks if block["rows"]}
    kind = next((one for one in sorted(kinds) if one.endswith("-partial")), min(kinds))
    mean = sum(block["bits"] for block in blocks) / rows
    lines = [f"mean {mean:.2f} bits per row ({kind}); {expected.row:.2f} in rows of the model itself"]
    top = sorted((row for block in blocks for row in block["top"]), key=lambda row: (-row[0], row[1]))[:SHOWN]
    for _, row, bits, cell in top:
        which = f", most unusual: {cell[0]} with {cell[1]:.2f} bits (expected {cell[2]:.2f})" if cell else ""
        lines.append(f"row {row}: {bits:.2f} bits{which}")
    return lines
