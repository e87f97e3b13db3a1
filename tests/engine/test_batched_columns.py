"""Rows of tables in the batcher: masks share evaluations, and logits are computed only for the columns they reveal."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen_ray.engine.inference import score as scoring
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import Batcher, LatencyProfile, measure
from gen_ray.engine.inference.generate import generate
from gen_ray.maths.chain import Chain, Known
from tests import tabular_cases
from tests.engine.row_models import CPU, untrained_model

PROFILE = LatencyProfile((1, 2, 4, 8, 16, 32, 64), (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6))


@pytest.fixture(scope="module")
def model() -> Model:
    return untrained_model(tabular_cases.mixed_rows(300))


class Counting:
    """Wraps the methods of a model's net and records the rows of each evaluation."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, list[int]] = {"hidden": [], "logits": []}
        for name, rows in self.rows.items():
            monkeypatch.setattr(model.net, name, self._recorded(getattr(model.net, name), rows))

    def _recorded(self, method: Any, rows: list[int]) -> Any:
        def call(*args: Tensor) -> Tensor:
            rows.append(len(args[0]))
            out: Tensor = method(*args)
            return out

        return call


def gaps(model: Model, seed: int, n: int, share: float = 0.5) -> Known:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, n) for size in model.spec.cardinalities], 1)
    return Known(known=torch.from_numpy(codes), mask=torch.from_numpy(rng.random(codes.shape) >= share))


def completions(model: Model, chain: Chain, known: Known, seed: int) -> Tensor:
    return generate(model.net, chain, len(known.mask), seed=seed, device=CPU, known=known)


REQUESTS = tuple(enumerate((1, 1, 1, 5, 9)))
"""Seeds and numbers of rows."""


def test_rows_with_different_masks_share_evaluations(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = model.family.impute("first_hitting", None)
    known = [gaps(model, seed, n) for seed, n in REQUESTS]
    expected = [completions(model, chain, known[seed], seed) for seed, _ in REQUESTS]
    counting = Counting(model, monkeypatch)
    batcher = Batcher(model, PROFILE, CPU, backlog_seconds=1e9)
    try:
        handles = [batcher.submit(chain, n, seed=seed, known=known[seed]) for seed, n in REQUESTS]
        for handle, samples in zip(handles, expected, strict=True):
            assert torch.equal(handle.future.result(), samples)
    finally:
        batcher.close()
    missing = [(~one.mask).sum(1) for one in known]
    assert not counting.rows["logits"]
    assert len(counting.rows["hidden"]) < sum(int(one.max()) for one in missing), "the requests share evaluations"
    assert sum(counting.rows["hidden"]) <= 1.25 * sum(int(one.sum()) for one in missing) + 1, "only rows with a gap"


def test_scores_join_the_evaluations_of_samples(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaps(model, 7, 6).known.to(torch.int32)
    alone = scoring.score(model, x, effort=6, repeats=2, seed=3, device=CPU)
    counting = Counting(model, monkeypatch)
    batcher = Batcher(model, PROFILE, CPU, backlog_seconds=1e9)

    def work(net: Any) -> scoring.InstanceScores:
        return scoring.score(replace(model, net=net), x, effort=6, repeats=2, seed=3, device=CPU)

    try:
        chain = model.family.chain("first_hitting", None)
        samples = batcher.submit(chain, 500, seed=1)
        scored = batcher.submit_callable(work, 12, reduced_precision=True).future.result()
        torch.testing.assert_close(scored.bits_per_dim, alone.bits_per_dim, rtol=1e-5, atol=1e-5)
        samples.future.result()
    finally:
        batcher.close()
    assert max(counting.rows["logits"]) <= 8 < max(counting.rows["hidden"]), "all logits only of the scored rows"


def test_padded_rows_have_the_same_bits_in_any_company(model: Model) -> None:
    chain = model.family.impute("first_hitting", None)
    with_others, alone = [], []
    for found, others in ((alone, 0), (with_others, 6)):
        batcher = Batcher(model, PROFILE, CPU, backlog_seconds=1e9)
        try:
            for seed in range(others):
                batcher.submit(chain, 3, seed=50 + seed, known=gaps(model, seed, 3), padded=True)
            for seed in range(4):
                handle = batcher.submit(chain, 2, seed=seed, known=gaps(model, seed, 2), padded=True)
                found.append(handle.future.result())
        finally:
            batcher.close()
    assert all(torch.equal(a, b) for a, b in zip(alone, with_others, strict=True))


def test_an_auxiliary_task_can_sample(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, known = model.family.impute("first_hitting", None), gaps(model, 2, 4)
    expected = completions(model, chain, known, 5)
    counting = Counting(model, monkeypatch)
    batcher = Batcher(model, PROFILE, CPU, backlog_seconds=1e9)
    try:
        handle = batcher.submit_callable(lambda net: completions(replace(model, net=net), chain, known, 5), 24)
        assert torch.equal(handle.future.result(), expected)
    finally:
        batcher.close()
    assert counting.rows["hidden"] and not counting.rows["logits"]


def test_every_round_of_the_latency_profile_does_the_same_work(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round in which no column is left to reveal would look free."""
    counting = Counting(model, monkeypatch)
    profile = measure(model, CPU, most_rows=4)
    assert profile.rows == (1, 2, 4) and counting.rows["hidden"] == [1] * 5 + [2] * 5 + [4] * 5
