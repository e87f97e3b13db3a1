"""What a training worker makes of the blocks of a data set."""

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
from gen_ray.datasets.shards import storage_dtype, to_numpy
from gen_ray.dataspec import DataSpec
from gen_ray.engine.training.batches import MicroBatches, permutation, prefetch
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment

WINDOW_SHARDS = 8
MEMORY_SHARE = 0.25
"""Of a node's memory, what the cached splits of its workers may take together."""


def in_memory(batches: Any, rows: int, spec: DataSpec) -> Tensor:
    """Return a split, x (N, *shape) in stored form, from blocks that come in any order."""
    x = np.empty((rows, *spec.shape), storage_dtype(spec.levels))
    for table in batches.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        x[to_numpy(table, "row")] = _tensors(table)
    return torch.from_numpy(x)


def _tensors(table: pa.Table) -> np.ndarray:
    column = table.column("x").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return column.to_numpy_ndarray() if isinstance(column, pa.FixedShapeTensorArray) else column.to_numpy()


def fits_in_memory(prepared: Prepared, workers: int) -> bool:
    """Return whether every worker of a node can hold the splits that training takes from memory."""
    size = sum(prepared.rows[s] for s in CACHED) * prepared.spec.dims
    size *= storage_dtype(prepared.spec.levels).itemsize
    nodes = [node["Resources"] for node in alive()]
    per_node = -(-workers // len(nodes))
    return size * per_node <= MEMORY_SHARE * min(node.get("memory", 0) for node in nodes)


def cached(experiment: Experiment, prepared: Prepared) -> Splits:
    """Return the splits read, or none where the workers are to stream them."""
    fits = fits_in_memory(prepared, experiment.scaling.most_workers)
    memory = {"memory": True, "stream": False}.get(experiment.data.cache, fits)
    return read(prepared) if memory else {}


@dataclass(frozen=True)
class ShardSlice:
    """Rows begin … end−1 of a shard."""

    shard: Shard
    begin: int
    end: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.end - self.begin


@dataclass(frozen=True)
class Streamed(MicroBatches):
    """A split larger than memory: shards in an order of (seed, epoch), rows shuffled within windows of 8 of them.

    Each epoch lays all shards end to end and gives every rank an equal stretch of their rows. A rank's steps run over
    the stretches of all epochs end to end, so that each row comes exactly once an epoch; and since everything is a
    function of (seed, step), a run resumes where it stood.
    """

    shards: list[Shard]

    @property
    def rows(self) -> int:
        """Return the number of rows of the split."""
        return sum(shard.rows for shard in self.shards)

    @property
    def share(self) -> int:
        """Return this rank's rows of a batch."""
        return self.batch_size // self.world_size

    @property
    def stretch(self) -> tuple[int, int]:
        """Return the first and the last but one of this rank's places in the row of all rows of an epoch."""
        first, end = (self.rows * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return first, end

    def deal(self, epoch: int) -> list[ShardSlice]:
        """Return this rank's pieces of an epoch, in order."""
        (first, end), at, pieces = self.stretch, 0, []
        for index in permutation(len(self.shards), self.seed, epoch):
            shard = self.shards[index]
            piece = ShardSlice(shard, max(first - at, 0), min(end - at, shard.rows))
            if piece.begin < piece.end:
                pieces.append(piece)
            at += shard.rows
        return pieces

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield this rank's micro-batches of each step. Raise UserError where there are fewer rows than workers."""
        first, end = self.stretch
        if first == end:
            raise UserError(f"data: {self.rows} rows are too few for {self.world_size} workers")
        waiting, micro = torch.empty(0), self.share // self.accumulate
        for window in prefetch(self._windows(*divmod(first_step * self.share, end - first))):
            rows = torch.cat([waiting, window]) if len(waiting) else window
            whole = len(rows) // self.share * self.share
            yield from (list(rows[at : at + self.share].split(micro)) for at in range(0, whole, self.share))
            waiting = rows[whole:]

    def _windows(self, epoch: int, skip: int) -> Iterator[Tensor]:
        """Yield the shuffled rows (n, *shape) of one window after the other, for ever, but for the first skip rows."""
        while True:
            mine = self.deal(epoch)
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
        """Yield the rows of each piece, read by Ray Data a few shards ahead."""
        shards = dataset([piece.shard for piece in pieces])
        tables = shards.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
        for piece, table in zip(pieces, tables, strict=True):
            yield torch.from_numpy(_tensors(table)[piece.begin : piece.end].copy())

    def ordered(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield every world_size-th batch of the split in its stored order."""
        batches = dataset(self.shards).iter_batches(batch_size=size, batch_format="pyarrow", prefetch_batches=2)
        for index, table in enumerate(batches):
            if index % self.world_size == self.rank:
                yield index, torch.from_numpy(_tensors(table).copy())
