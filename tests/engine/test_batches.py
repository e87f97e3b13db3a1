"""Batches: the rows of a step depend only on (seed, step); micro-batches are the same for any distribution."""

import itertools
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import Tensor

from gen_ray.engine.training import batches as module
from gen_ray.engine.training.batches import CombinedBatches, InMemoryBatches, permutation, prefetch_to_device

X = torch.arange(23)


def taken(batches: InMemoryBatches, first: int, steps: int) -> list[list[int]]:
    """Return the rows of each step, micro-batches joined."""
    stream = batches.stream(first)
    return [torch.cat(micros).tolist() for micros in itertools.islice(stream, steps)]


@pytest.mark.parametrize("batch_size", [1, 4, 23, 30, 60])
def test_every_epoch_contains_every_row_once(batch_size: int) -> None:
    rows = list(itertools.chain(*taken(InMemoryBatches(X, batch_size=batch_size, seed=3), 0, 8 * 23 // batch_size + 8)))
    epochs = [rows[e * 23 : (e + 1) * 23] for e in range(8)]
    assert all(sorted(epoch) == X.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8  # each in its own order


@pytest.mark.parametrize("batch_size", [4, 30])
def test_a_stream_started_at_a_later_step_has_the_same_rows(batch_size: int) -> None:
    whole = taken(InMemoryBatches(X, batch_size=batch_size), 0, 20)
    for first in (1, 5, 6, 13):
        assert taken(InMemoryBatches(X, batch_size=batch_size), first, 20 - first) == whole[first:]
    assert taken(InMemoryBatches(X, batch_size=batch_size, seed=1), 0, 20) != whole


@pytest.mark.parametrize(("ranks", "accumulation_steps"), [(1, 1), (1, 4), (2, 2), (4, 1), (2, 1)])
def test_micro_batches_are_assigned_in_order(ranks: int, accumulation_steps: int) -> None:
    single = taken(InMemoryBatches(X, batch_size=8), 0, 9)
    dealt = [
        itertools.islice(
            InMemoryBatches(X, batch_size=8, rank=r, world_size=ranks, accumulation_steps=accumulation_steps).stream(0),
            9,
        )
        for r in range(ranks)
    ]
    for step, per_rank in enumerate(zip(*dealt, strict=True)):
        micros = [micro for rank in per_rank for micro in rank]
        assert [len(m) for m in micros] == [8 // (ranks * accumulation_steps)] * (ranks * accumulation_steps)
        assert torch.cat(micros).tolist() == single[step]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 5, 23, 100])
def test_an_ordered_pass_covers_each_row_once_over_all_ranks(ranks: int, size: int) -> None:
    found = [
        part for r in range(ranks) for part in InMemoryBatches(X, batch_size=8, rank=r, world_size=ranks).slices(size)
    ]
    assert sorted(index for index, _ in found) == list(range(-(-23 // size)))
    assert torch.cat([x for _, x in sorted(found, key=lambda part: part[0])]).tolist() == X.tolist()
    assert all(len(x) <= size and x[0] == index * size for index, x in found)


def test_a_permutation_is_a_function_of_its_key() -> None:
    first = permutation(50, 0, 1).copy()
    permutation.cache_clear()
    assert np.array_equal(permutation(50, 0, 1), first) and sorted(first) == list(range(50))
    assert not np.array_equal(permutation(50, 1, 0), first)
    share = np.mean([permutation(10, seed)[0] for seed in range(2000)])
    assert abs(share - 4.5) < 4 * (99 / 12 / 2000) ** 0.5
    assert InMemoryBatches(X, batch_size=8).rows == 23


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_worker_that_replaces_several_gets_their_rows(accumulation_steps: int) -> None:
    views = [
        InMemoryBatches(X, batch_size=8, rank=r, world_size=4, accumulation_steps=accumulation_steps) for r in range(4)
    ]
    both = CombinedBatches(views[1:3])
    steps = list(itertools.islice(both.stream(2), 5))
    apart = [list(itertools.islice(view.stream(2), 5)) for view in views[1:3]]
    for found, first, second in zip(steps, *apart, strict=True):
        assert torch.equal(torch.cat(found), torch.cat([*first, *second])) and len(found) == 2 * accumulation_steps
    assert both.rows == len(X)
    halves = (CombinedBatches(views[:3]), CombinedBatches(views[3:]))
    indices = [index for half in halves for index, _ in half.slices(3)]
    assert sorted(indices) == list(range(-(-len(X) // 3)))


def test_the_next_batch_is_copied_to_the_gpu_during_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks order, rows and waiting of the threads; the copy itself needs a GPU and is replaced."""
    second, consumed = threading.Event(), list[str]()

    class Played:
        def __init__(self, device: torch.device) -> None:
            assert device.type == "cuda"

        def begin(self, micros: list[Tensor]) -> tuple[list[Tensor], int]:
            consumed.append("begun")
            if len(consumed) == 2:
                second.set()
            return micros, len(consumed)

        def finish(self, copies: list[Tensor], made: int) -> list[Tensor]:
            assert made > 0
            return copies

    monkeypatch.setattr(module, "Copier", Played)
    split = InMemoryBatches(torch.arange(12), batch_size=4, accumulation_steps=2)
    with closing(prefetch_to_device(split.stream(0), torch.device("cuda"))) as stream:
        first = next(stream)
        assert second.wait(10), "the copy of the second batch starts while the first batch is in use"
        expected = split.stream(0)
        for found in (first, next(stream), next(stream)):
            assert all(torch.equal(*pair) for pair in zip(found, next(expected), strict=True))


def test_on_a_cpu_batches_are_passed_through_unchanged() -> None:
    split = InMemoryBatches(torch.arange(12), batch_size=4)
    assert torch.equal(next(prefetch_to_device(split.stream(2), torch.device("cpu")))[0], next(split.stream(2))[0])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_of_a_measurement_has_rows_of_a_small_split(ranks: int) -> None:
    """Regression: gen-ray plan --check failed on data of fewer than 4,097 rows because rank 0 had all rows."""
    for rank in range(ranks):
        batches = InMemoryBatches(batch_size=20, rank=rank, world_size=ranks, x=X)
        rows = module.rows_of_rank(batches, ranks, 20)
        assert len(rows) >= 20 and set(rows.tolist()) <= set(X.tolist())
