"""Prepared shards as Ray Data. Without torch: a process that reads imports this file, and torch takes seconds."""

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import ray
import ray.data

from gen_ray.datasets.prepared import Prepared, Shard
from gen_ray.datasets.shards import read_shard
from gen_ray.storage.paths import place

READERS = 4
"""Processes that read at once. They book no CPU: training workers may have booked all, and wait for what these read."""


def dataset(shards: list[Shard]) -> "ray.data.Dataset":
    """Return shards as a Ray dataset of one block each, in order, every byte checked where it is read.

    Ray's own reader merges small files into one block and does not notice a flipped bit.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells the user of every execution
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # else the name of a damaged file is lost on the way to the driver
    items = [{"path": str(s.path), "sha256": s.sha256, "rows": s.rows, "first_row": s.first_row} for s in shards]
    readers = min(READERS, len(items))  # Ray warns of more than there is to do
    listing = ray.data.from_items(items, override_num_blocks=len(items))
    return listing.map_batches(_read, batch_size=1, batch_format="numpy", num_cpus=0, concurrency=readers)


def _read(item: dict[str, np.ndarray]) -> pa.Table:
    shard = Shard(
        path=place(str(item["path"][0])),
        sha256=str(item["sha256"][0]),
        rows=int(item["rows"][0]),
        first_row=int(item["first_row"][0]),
    )
    return _table(shard)


Splits = Mapping[str, "ray.data.Dataset"]
CACHED = ("train", "validation")


def read(prepared: Prepared) -> Splits:
    """Return the splits that training takes from memory, read once into the cluster's own for all workers and attempts.

    By the driver: readers are processes, and to start four takes longer than to read what fits into memory. Without a
    task of Ray's, which would wait for a core where others have all.
    """
    return {split: ray.data.from_blocks(list(map(_table, prepared.shards(split)))) for split in CACHED}


def _table(shard: Shard) -> pa.Table:
    return read_shard(shard).select(["row", "x"])
