"""Prepared shards as Ray Data. Free of torch, because reader processes import this file and torch takes seconds."""

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import ray
import ray.data

from gen_ray.datasets.prepared import Prepared, Shard
from gen_ray.datasets.shards import read_shard
from gen_ray.storage.paths import resolve

READERS = 4
"""Concurrent reader processes. They reserve no CPU, because the training workers that wait for them may hold all."""


def dataset(shards: list[Shard]) -> "ray.data.Dataset":
    """Return shards as a Ray dataset of one block each, in order; the checksum of each shard is verified on reading.

    Ray's own reader merges small files into one block and does not detect a flipped bit.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs every execution
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # otherwise the name of a damaged file is lost
    items = [{"path": str(s.path), "sha256": s.sha256, "rows": s.rows, "first_row": s.first_row} for s in shards]
    readers = min(READERS, len(items))  # Ray warns if there are more readers than items
    listing = ray.data.from_items(items, override_num_blocks=len(items))
    return listing.map_batches(_read, batch_size=1, batch_format="numpy", num_cpus=0, concurrency=readers)


def _read(item: dict[str, np.ndarray]) -> pa.Table:
    shard = Shard(
        path=resolve(str(item["path"][0])),
        sha256=str(item["sha256"][0]),
        rows=int(item["rows"][0]),
        first_row=int(item["first_row"][0]),
    )
    return _table(shard)


Splits = Mapping[str, "ray.data.Dataset"]
CACHED = ("train", "validation")


def read(prepared: Prepared) -> Splits:
    """Read the cached splits once into the cluster's object store, for all workers and restarts.

    The driver reads: starting four reader processes takes longer than reading data that fit into memory, and a Ray task
    would wait for a core if others hold all.
    """
    return {split: ray.data.from_blocks(list(map(_table, prepared.shards(split)))) for split in CACHED}


def _table(shard: Shard) -> pa.Table:
    return read_shard(shard).select(["row", "x"])
