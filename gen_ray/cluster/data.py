"""Prepared shards as Ray Data, and what a training worker makes of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from torch import Tensor

from gen_ray.datasets.prepared import Prepared, Shard
from gen_ray.datasets.shards import read_shard, storage_dtype, to_numpy
from gen_ray.dataspec import DataSpec
from gen_ray.engine.batches import Lanes, permutation
from gen_ray.errors import UserError

READ_CPUS = 0.5
WINDOW_SHARDS = 8
MEMORY_SHARE = 0.25
"""Of a node's memory, what the cached splits of its workers may take together."""


def dataset(shards: list[Shard]) -> "ray.data.Dataset":
    """Return shards as a Ray dataset of one block each, in order, every byte checked where it is read.

    Ray's own reader merges small files into one block and does not notice a flipped bit.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # else the name of a damaged file is lost on the way to the driver
    items = [{"path": str(s.path), "sha256": s.sha256, "rows": s.rows, "first_row": s.first_row} for s in shards]
    listing = ray.data.from_items(items, override_num_blocks=len(items))
    return listing.map_batches(_read, batch_size=1, batch_format="numpy", num_cpus=READ_CPUS)


def _read(item: dict[str, np.ndarray]) -> pa.Table:
    shard = Shard(
        path=Path(str(item["path"][0])),
        sha256=str(item["sha256"][0]),
        rows=int(item["rows"][0]),
        first_row=int(item["first_row"][0]),
    )
    return read_shard(shard).select(["row", "x"])


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
    """Return whether every worker of a node can hold the train and validation splits."""
    size = sum(prepared.rows[s] for s in ("train", "validation")) * prepared.spec.dims
    size *= storage_dtype(prepared.spec.levels).itemsize
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    per_node = -(-workers // len(nodes))
    return size * per_node <= MEMORY_SHARE * min(node.get("memory", 0) for node in nodes)


@dataclass(frozen=True)
class Streamed(Lanes):
    """A split larger than memory: shards in an order of (seed, epoch), rows shuffled within windows of 8 shards.

    Each epoch deals the shards out to the ranks; what a rank has beyond the poorest one's full batches is left out of
    that epoch. Like everything else the order is a function of (seed, step), so a run resumes where it stood.
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

    def deal(self, epoch: int, rank: int) -> list[Shard]:
        """Return a rank's shards of an epoch, in order."""
        return [self.shards[i] for i in permutation(len(self.shards), self.seed, epoch)[rank :: self.world_size]]

    def steps(self, epoch: int) -> int:
        """Return the number of full batches that every rank has in an epoch."""
        rows = [sum(shard.rows for shard in self.deal(epoch, rank)) for rank in range(self.world_size)]
        return min(rows) // self.share

    def stream(self, first_step: int) -> Iterator[list[Tensor]]:
        """Yield this rank's micro-batches of each step, epoch after epoch. Raise UserError for too few shards."""
        poorest = sum(sorted(shard.rows for shard in self.shards)[: len(self.shards) // self.world_size])
        if poorest < self.share:
            raise UserError(
                f"data.cache=stream: {len(self.shards)} shards of {self.rows} rows may not give each of "
                f"{self.world_size} workers a batch of {self.share} rows; use data.cache=memory"
            )
        epoch, step = 0, first_step
        while step >= self.steps(epoch):
            step -= self.steps(epoch)
            epoch += 1
        while True:
            micro = self.share // self.accumulate
            for rows in self._epoch(epoch, skip=step * self.share, count=self.steps(epoch) * self.share):
                yield list(rows.split(micro))
            epoch, step = epoch + 1, 0

    def _epoch(self, epoch: int, *, skip: int, count: int) -> Iterator[Tensor]:
        """Yield batches (share, *shape) of rows skip … count of the rank's epoch; skipped windows stay unread."""
        mine, waiting, seen = self.deal(epoch, self.rank), torch.empty(0), 0
        for first in range(0, len(mine), WINDOW_SHARDS):
            window = mine[first : first + WINDOW_SHARDS]
            size = sum(shard.rows for shard in window)
            begin, end, seen = max(0, skip - seen), min(size, count - seen), seen + size
            if begin >= end:
                continue
            order = permutation(size, self.seed, epoch, self.rank, first)[begin:end]
            rows = self._window(window)[torch.from_numpy(order)]
            rows = torch.cat([waiting, rows]) if len(waiting) else rows
            whole = len(rows) // self.share * self.share
            yield from (rows[at : at + self.share] for at in range(0, whole, self.share))
            waiting = rows[whole:]

    def _window(self, shards: list[Shard]) -> Tensor:
        tables = dataset(shards).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
        return torch.cat([torch.from_numpy(_tensors(table).copy()) for table in tables])

    def ordered(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield every world_size-th batch of the split in its stored order."""
        batches = dataset(self.shards).iter_batches(batch_size=size, batch_format="pyarrow", prefetch_batches=2)
        for index, table in enumerate(batches):
            if index % self.world_size == self.rank:
                yield index, torch.from_numpy(_tensors(table).copy())
