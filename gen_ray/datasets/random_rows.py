"""A seeded random choice of a split's rows for metrics and pictures.

The first rows are not a random choice, because sources keep their order, and image folders or sorted Parquet files are
ordered by class.
"""

import numpy as np

from gen_ray.datasets.prepared import Prepared
from gen_ray.datasets.shards import read_shard, to_numpy

SEED = 0
"""The seed of every choice of rows for measurements. It is part of their provenance."""
KEYS_PER_BLOCK = 2**20


def random_row_numbers(total: int, n: int, *, seed: int = SEED) -> np.ndarray:
    """Return the numbers of n of total rows in random order, (min(n, total),) int64, a function of (seed, total).

    Every row has a random key, and the rows with the smallest keys are chosen. A smaller choice is a prefix of a larger
    one. Memory is O(n), independent of total.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, total])))
    rows, keys = np.empty(0, np.int64), np.empty(0)
    for first in range(0, total, KEYS_PER_BLOCK):
        new = rng.random(min(KEYS_PER_BLOCK, total - first))
        small = np.flatnonzero(new < keys[-1]) if 0 < n == len(keys) else np.arange(len(new))
        rows, keys = np.append(rows, first + small), np.append(keys, new[small])
        smallest = np.argsort(keys, kind="stable")[:n]
        rows, keys = rows[smallest], keys[smallest]
    return rows


def read_rows(prepared: Prepared, split: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return rows of a split by number, in the given order: x (n, *shape) and labels (n,) int32, None without classes.

    One shard is in memory at a time, and a shard without any of the rows is not read. Raise DataError.
    """
    x = np.empty((len(rows), *prepared.spec.shape), prepared.spec.storage_dtype)
    labels = np.empty(len(rows), np.int32) if prepared.spec.classes else None
    for shard in prepared.shards(split):
        places = np.flatnonzero((rows >= shard.first_row) & (rows < shard.first_row + shard.rows))
        if len(places):
            table, inside = read_shard(shard), rows[places] - shard.first_row
            x[places] = to_numpy(table)[inside]
            if labels is not None:
                labels[places] = to_numpy(table, "label")[inside]
    return x, labels


def read_random_rows(
    prepared: Prepared, split: str, n: int, *, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a seeded choice of n rows of a split, or all of them, in random order: x (n, *shape) and labels (n,)."""
    prepared.shards(split)  # raises for an unknown split
    return read_rows(prepared, split, random_row_numbers(prepared.rows[split], n, seed=seed))
