"""Batches of a training worker from the blocks of a data set, cached in memory or streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gen_ray.cluster.data.reading import CACHED, Splits, dataset, read
from gen_ray.cluster.nodes.connect import alive
from gen_ray.datasets.prepared import Prepared, Shard
from gen_ray.datasets.shards import to_numpy
from gen_ray.dataspec import DataSpec
from gen_ray.engine.training.batches import MicroBatches, permutation, prefetch
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment

WINDOW_SHARDS = 8
MEMORY_SHARE = 0.25
"""Maximum fraction of a node's memory for the cached splits of its workers."""


def in_memory(batches: Any, rows: int, spec: DataSpec) -> Tensor:
    """Return a split, x (N, *shape) in stored form, from blocks in any order."""
    x = np.empty((rows, *spec.shape), spec.storage_dtype)
    for table in batches.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        x[to_numpy(table, "row")] = _tensors(table)
    return torch.from_numpy(x)


def _tensors(table: pa.Table) -> np.ndarray:
    column = table.column("x").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return column.to_numpy_ndarray() if isinstance(column, pa.FixedShapeTensorArray) else column.to_numpy()


def fits_in_memory(prepared: Prepared, workers: int) -> bool:
    """Return whether each node has memory for the cached splits of all of its workers."""
    size = sum(prepared.rows[s] for s in CACHED) * prepared.spec.dims
    size *= prepared.spec.storage_dtype.itemsize
    nodes = [node["Resources"] for node in alive()]
    per_node = -(-workers // len(nodes))
    return size * per_node <= MEMORY_SHARE * min(node.get("memory", 0) for node in nodes)


def cached(experiment: Experiment, prepared: Prepared) -> Splits:
    """Return the cached splits, or an empty mapping if the workers are to stream them."""
    fits = fits_in_memory(prepared, experiment.scaling.most_workers)
    memory = {"memory": True, "stream": False}.get(experiment.data.cache, fits)
    return read(prepared) if memory else {}


@dataclass(frozen=True)
class ShardSlice:
    """Rows [begin, end) of a shard."""

    shard: Shard
    begin: int
    end: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.end - self.begin


@dataclass(frozen=True)
class Streamed(MicroBatches):
    """A split larger than memory: shards ordered by (seed, epoch), rows shuffled within windows of 8 shards.

    Each epoch concatenates all shards and gives every rank an equal span of the rows. A rank's steps run over its spans
    of all epochs in sequence, so that each row occurs exactly once an epoch. Everything is a function of (seed, step),
    so that a run resumes at the same position.
    """

    shards: list[Shard]

    @property
    def rows(self) -> int:
        """Return the number of rows of the split."""
        return sum(shard.rows for shard in self.shards)

    @property
    def share(self) -> int:
        """Return the number of this rank's rows of a batch."""
        return self.batch_size // self.world_size

    @property
    def span(self) -> tuple[int, int]:
        """Return the bounds [first, end) of this rank's rows in an epoch's concatenated rows."""
        first, end = (self.rows * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return first, end

    def assign(self, epoch: int) -> list[ShardSlice]:
        """Return this rank's slices of an epoch, in order."""
        (first, end), at, pieces = self.span, 0, []
        for index in permutation(len(self.shards), self.seed, epoch):
            shard = self.shards[index]
            piece = ShardSlice(shard, max(first - at, 0), min(end - at, shard.rows))
            if piece.begin < piece.end:
                pieces.append(piece)
            at += shard.rows
        return pieces

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield this rank's micro-batches (n, *shape) of each step. Raise UserError for fewer rows than workers."""
        first, end = self.span
        if first == end:
            raise UserError(f"data: {self.rows} rows are too few for {self.world_size} workers")
        waiting, micro = torch.empty(0), self.share // self.accumulation_steps
        for window in prefetch(self._windows(*divmod(first_step * self.share, end - first))):
            rows = torch.cat([waiting, window]) if len(waiting) else window
            usable_rows = len(rows) // self.share * self.share
            yield from (list(rows[at : at + self.share].split(micro)) for at in range(0, usable_rows, self.share))
            waiting = rows[usable_rows:]

    def _windows(self, epoch: int, skip: int) -> Iterator[Tensor]:
        """Yield the shuffled rows (n, *shape) of each window, endlessly, without the first skip rows."""
        while True:
            mine = self.assign(epoch)
            windows = [mine[first : first + WINDOW_SHARDS] for first in range(0, len(mine), WINDOW_SHARDS)]
            sizes = [sum(map(len, window)) for window in windows]
            unread = [i for i, end in enumerate(accumulate(sizes)) if end > skip]
            rows = self._rows([piece for i in unread for piece in windows[i]])
            skip -= sum(sizes[: unread[0]])
            for i in unread:
                order = permutation(sizes[i], self.seed, epoch, self.rank, i)[skip:]
                yield torch.cat([next(rows) for _ in windows[i]])[torch.from_numpy(order)]
                skip = 0
            epoch += 1

    def _rows(self, pieces: list[ShardSlice]) -> Iterator[Tensor]:
        """Yield the rows (n, *shape) of each slice; Ray Data reads a few shards ahead."""
        shards = dataset([piece.shard for piece in pieces])
        tables = shards.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
        for piece, table in zip(pieces, tables, strict=True):
            yield torch.from_numpy(_tensors(table)[piece.begin : piece.end].copy())

    def slices(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, batch (n, *shape)) for every world_size-th batch of the split in stored order."""
        batches = dataset(self.shards).iter_batches(batch_size=size, batch_format="pyarrow", prefetch_batches=2)
        for index, table in enumerate(batches):
            if index % self.world_size == self.rank:
                yield index, torch.from_numpy(_tensors(table).copy())
