"""Streamed rows of a worker: every row once per epoch, in an order that depends only on seed and position."""

import itertools
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gen_ray.cluster.data.blocks import Streamed, in_memory
from gen_ray.cluster.data.reading import dataset
from gen_ray.cluster.training.trainer import user_error
from gen_ray.datasets.prepared import Prepared
from gen_ray.datasets.shards import load_split
from gen_ray.engine.training.batches import InMemoryBatches
from gen_ray.errors import UserError
from tests.cluster.tiny_runs import sharded


@pytest.fixture(scope="module")
def prepared(storage: Path) -> Prepared:
    return sharded(storage)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, prepared: Prepared) -> torch.Tensor:
    """Let Streamed read the rows 0 … N−1 without Ray, because tests of the order need no cluster."""
    monkeypatch.setattr(
        Streamed, "_rows",
        lambda self, pieces: (torch.arange(p.shard.first_row + p.begin, p.shard.first_row + p.end) for p in pieces),
    )  # fmt: skip
    return torch.arange(prepared.rows["train"])


def stream_options(
    world: int, rank: int = 0, accumulation_steps: int = 1, batch_size: int = 64, seed: int = 1
) -> dict[str, int]:
    return {
        "batch_size": batch_size, "seed": seed, "rank": rank, "world_size": world,
        "accumulation_steps": accumulation_steps,
    }  # fmt: skip


def take(batches: Streamed | InMemoryBatches, first: int, count: int) -> list[list[int]]:
    """Return the rows of each of count steps."""
    return [torch.cat(micros).tolist() for micros in itertools.islice(batches.stream(first), count)]


@pytest.mark.parametrize(("world", "batch_size"), [(1, 96), (2, 96), (3, 96), (2, 1400), (3, 3000)])
def test_every_row_occurs_exactly_once_per_epoch(
    prepared: Prepared, at_once: torch.Tensor, world: int, batch_size: int
) -> None:
    epochs, everything = 3, [Counter[int]() for _ in range(3)]
    for rank in range(world):
        streamed = Streamed(prepared.shards("train"), **stream_options(world, rank, batch_size=batch_size))
        first, end = streamed.span
        size, steps = end - first, epochs * len(at_once) // batch_size + 2
        mine = [row for step in take(streamed, 0, steps) for row in step]
        for epoch in range(epochs):
            everything[epoch].update(mine[epoch * size : (epoch + 1) * size])
    assert everything == [Counter(at_once.tolist())] * epochs


@pytest.mark.parametrize("batch_size", [32, 96, 120])
@pytest.mark.parametrize(("world", "accumulation_steps"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_stream_started_at_a_later_step_equals_the_advanced_stream(
    prepared: Prepared, at_once: torch.Tensor, batch_size: int, world: int, accumulation_steps: int
) -> None:
    for rank in range(world):
        streamed = Streamed(prepared.shards("train"), **stream_options(world, rank, accumulation_steps, batch_size))
        total = 2 * streamed.rows // batch_size + 3
        from_start = take(streamed, 0, total)
        assert all(len(step) == batch_size // world for step in from_start)
        for first in range(total):
            assert take(streamed, first, 2) == from_start[first : first + 2] or first == total - 1


def test_the_order_is_a_function_of_the_seed_and_differs_between_epochs(
    prepared: Prepared, at_once: torch.Tensor
) -> None:
    one, again, other = (Streamed(prepared.shards("train"), **stream_options(1, seed=seed)) for seed in (1, 1, 2))
    steps = one.rows // 64
    assert take(one, 0, 3) == take(again, 0, 3) != take(other, 0, 3)
    assert take(one, 0, steps) != take(one, steps, steps)
    moved = np.abs(np.diff(take(one, 0, 1)[0]))
    assert np.median(moved) > 10  # rows are shuffled across shards


def test_fewer_rows_than_workers_are_refused_without_waiting(prepared: Prepared, at_once: torch.Tensor) -> None:
    [shard] = prepared.shards("train")[:1]
    streamed = Streamed([replace(shard, rows=2)], **stream_options(3, batch_size=3))
    with pytest.raises(UserError, match="2 rows are too few for 3 workers"):
        next(streamed.stream(0))


# ---- through Ray --------------------------------------------------------------------------------------------------


def test_a_dataset_gives_every_row_for_any_order_of_its_blocks(cluster: None, prepared: Prepared) -> None:
    x, _ = load_split(prepared, "train")
    shards = prepared.shards("train")
    assert np.array_equal(in_memory(dataset(shards), len(x), prepared.spec).numpy(), x)
    assert np.array_equal(in_memory(dataset(shards[::-1]), len(x), prepared.spec).numpy(), x)


def test_streamed_rows_equal_the_rows_of_the_shards(cluster: None, prepared: Prepared) -> None:
    x, _ = load_split(prepared, "train")
    streamed = Streamed(prepared.shards("train")[:3], **stream_options(1))
    rows = torch.cat([micro for step in itertools.islice(streamed.stream(0), 3) for micro in step]).numpy()
    known = Counter(row.tobytes() for row in x[: streamed.rows])
    assert not Counter(row.tobytes() for row in rows) - known
    parts = [dict(Streamed(prepared.shards("train")[:3], **stream_options(2, rank)).slices(50)) for rank in range(2)]
    joined = parts[0] | parts[1]
    assert not parts[0].keys() & parts[1].keys()
    assert np.array_equal(torch.cat([joined[i] for i in sorted(joined)]).numpy(), x[: streamed.rows])


def test_a_flipped_bit_is_named_through_all_that_ray_wraps_around_it(
    cluster: None, prepared: Prepared, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(prepared.folder, tmp_path / "copy"))
    shards = [replace(shard, path=folder / shard.path.name) for shard in prepared.shards("train")[:3]]
    content = bytearray(shards[1].path.read_bytes())
    content[len(content) // 2] ^= 1
    shards[1].path.write_bytes(content)
    with pytest.raises(Exception, match="damaged") as caught:
        in_memory(dataset(shards), 300, prepared.spec)
    error = user_error(caught.value)
    assert isinstance(error, UserError) and str(error).startswith(f"{shards[1].path}: damaged")
