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


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """The settings of scores: the file, and the family's effort.

    expected (D,) are the bits of each column's values in rows of the model itself, or None if it does not give the bits
    of single cells. The column of a row whose bits exceed them the most is its most unusual one.
    """

    source: FileBlocks
    suffix: str
    effort: int
    seed: int
    expected: tuple[float, ...] | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return everything but the file that the output depends on."""
        return {"suffix": self.suffix, "effort": self.effort, "seed": self.seed}

    def names(self) -> list[str]:
        """Return the names of the columns that are added. Raise UserError where the file has one already."""
        cells = [f"{column.name}_bits" for column in self.source.columns] if self.expected is not None else []
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
        if self.expected is None:
            return [pa.array(found.rows)]
        cells = np.empty(codes.shape) if found.cells is None else found.cells  # None: a block without rows
        names, nothing = pa.array([column.name for column in self.source.columns]), (codes < 0).all(1)
        unusual = names.take(pa.array(self._excess(cells, codes).argmax(1), mask=nothing))
        by_cell = [pa.array(cells[:, d], mask=codes[:, d] < 0) for d in range(codes.shape[1])]
        return [pa.array(found.rows), unusual, *by_cell]

    def _excess(self, cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the bits (n, D) of cells above those that are expected, -inf where a value is missing."""
        return np.where(codes < 0, -np.inf, cells - np.array(self.expected))

    def _statistics(self, found: "Bits", codes: np.ndarray, first: int) -> dict[str, Any]:
        """Return the sum of the bits and the most unusual rows, which ``summary`` combines."""
        top = np.argsort(-found.rows, kind="stable")[:SHOWN]
        rows = []
        for i in top.tolist():
            cell = None
            if found.cells is not None and self.expected is not None and (codes[i] >= 0).any():
                d = int(self._excess(found.cells[i], codes[i]).argmax())
                cell = [self.source.columns[d].name, float(found.cells[i, d]), self.expected[d]]
            rows.append([float(found.rows[i]), first + i, cell])
        return {"bits": float(found.rows.sum()), "rows": len(found.rows), "kind": found.kind, "top": rows}


@dataclass(frozen=True)
class Bits:
    """Bits of rows (n,) and, if the family gives them, of cells (n, D); the kind of bound."""

    rows: np.ndarray
    cells: np.ndarray | None
    kind: str

    @classmethod
    def of(cls, model: Model, codes: np.ndarray, effort: int, seed: tuple[int, ...], device: torch.device) -> "Bits":
        """Score codes (n, D); the noise of each batch is a function of (seed, its place)."""
        nats: list[Tensor] = []
        cells: list[Tensor] = []
        kind = ""
        # Not in inference mode: the density of a flow needs gradients
        with autocast(model.experiment.training.precision, device), torch.no_grad():
            for part in chains.batches(len(codes), chains.batch_rows(model.spec)):
                x = torch.from_numpy(codes[part]).to(device)
                nll = model.family.nll(model.net, x, generator(*seed, part.start, device=device), effort=effort)
                nats.append(nll.nats.double().cpu())
                cells += [] if nll.cells is None else [nll.cells.double().cpu()]
                kind = nll.kind if nll.kind.endswith("-partial") or not kind else kind
        bits = (bits_per_dim(torch.cat(part), 1).numpy() if part else np.empty(0) for part in (nats, cells))
        rows, by_cell = bits
        return cls(rows, by_cell if cells else None, kind)


def expected_bits(model: Model, effort: int, device: torch.device) -> tuple[float, ...] | None:
    """Return the mean bits (D,) of the columns of rows drawn from the model; None if it does not give those of cells.

    They are a function of the model only.
    """
    rows = np.arange(EXPECTATION_ROWS)
    with autocast(model.experiment.training.precision, device):
        drawn = chains.draw(model, model.experiment.chain(model.family), rows, 0, device).astype(np.int32)
    found = Bits.of(model, drawn, effort, (0,), device)
    return None if found.cells is None else tuple(found.cells.mean(0).tolist())


def summary(statistics: Iterable[Mapping[str, Any]], expected: tuple[float, ...] | None) -> list[str]:
    """Return lines on the statistics of all blocks: the mean, and the most unusual rows with their cells."""
    blocks = list(statistics)
    rows = sum(block["rows"] for block in blocks)
    if not rows:
        return []
    kinds = {block["kind"] for block in blocks if block["rows"]}
    kind = next((one for one in sorted(kinds) if one.endswith("-partial")), min(kinds))
    mean = sum(block["bits"] for block in blocks) / rows
    own = f"; {sum(expected):.2f} in rows of the model itself" if expected is not None else ""
    lines = [f"mean {mean:.2f} bits per row ({kind}){own}"]
    top = sorted((row for block in blocks for row in block["top"]), key=lambda row: (-row[0], row[1]))[:SHOWN]
    for bits, row, cell in top:
        which = f", most unusual: {cell[0]} with {cell[1]:.2f} bits (expected {cell[2]:.2f})" if cell else ""
        lines.append(f"row {row}: {bits:.2f} bits{which}")
    return lines
