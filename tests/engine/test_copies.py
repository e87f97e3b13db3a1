"""Copies: shares of samples near to training rows, with known values; detection and prediction by boosted trees."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import boosted_trees, copies, table_values
from gen_ray.engine.evaluation.boosted_trees import auc_standard_error, detection_auc, prediction_score
from gen_ray.engine.evaluation.copies import mean_gap, nearest_share, table_distances
from tests.engine.tiny_models import SPEC
from tests.tabular_cases import coded, mixed_rows


def table(n: int = 1200, seed: int = 0) -> tuple[DataSpec, Tensor]:
    spec, codes = coded(mixed_rows(n, seed), intervals=64)
    return spec, torch.from_numpy(codes[np.random.default_rng(seed).permutation(n)])


def noise(n: int, seed: int) -> Tensor:
    return torch.randint(17, (n, *SPEC.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["table", "image"])
def test_independent_samples_are_near_to_both_kinds_of_rows_and_copies_only_to_training_rows(kind: str) -> None:
    spec, x = table() if kind == "table" else (SPEC, noise(1200, 0))
    train, held_out, samples = x.split(400)
    found = nearest_share(samples, train, held_out, spec)
    assert abs(found.share - 0.5) < 3 * found.standard_error and 0.02 < found.standard_error < 0.06
    assert (found.samples, found.rows) == (400, 400)
    copied = nearest_share(train, train, held_out, spec)
    assert copied.share > 0.98 and nearest_share(held_out, train, held_out, spec).share < 0.02


def test_the_standard_error_is_the_spread_over_random_choices_of_the_training_rows() -> None:
    """Few rows have most of the samples near to them: a binomial error would be too small."""
    spec, x = table(900)
    rows, samples = x[:100], x[100:900]
    found = []
    for seed in range(60):
        mixed = rows[torch.randperm(100, generator=torch.Generator().manual_seed(seed))]
        found.append(nearest_share(samples, mixed[:50], mixed[50:], spec))
    spread = float(np.std([one.share for one in found]))
    assert spread == pytest.approx(found[0].standard_error, rel=0.3)
    assert found[0].standard_error > 2 * 0.5 / math.sqrt(800)


def test_rows_that_are_equally_near_share_a_sample() -> None:
    spec, codes = coded({"a": ["x", "y"] * 20, "b": ["u"] * 40})
    x = torch.from_numpy(codes)
    assert nearest_share(x, x[:20], x[20:], spec).share == pytest.approx(0.5)
    assert nearest_share(x[:1], x[:3:2], x[1:4:2], spec).share == 1  # both training rows are x, both others are y


def test_the_distance_of_rows_is_that_of_ranks_and_categories() -> None:
    spec, codes = coded({"n": np.arange(10.0), "c": ["p", "q"] * 5}, intervals=10)
    x = copies.points(torch.tensor([[0, 0], [9, 0], [0, 1], [-1, 0], [-1, -1]]), spec)
    assert len(codes) == 10
    gaps = table_distances(x, x)
    # fmt: off
    expected = [[0, 0.9, 1, 1, 2], [0.9, 0, 1.9, 1, 2], [1, 1.9, 0, 2, 2], [1, 1, 2, 0, 1], [2, 2, 2, 1, 0]]
    # fmt: on
    np.testing.assert_allclose(gaps, expected, atol=0.05)
    torch.testing.assert_close(gaps, gaps.T)


def test_memory_and_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, x = table()
    train, held_out, samples = x.split(400)
    whole = nearest_share(samples, train, held_out, spec)
    monkeypatch.setattr(copies, "CHUNK", 5000)
    assert nearest_share(samples, train, held_out, spec) == whole
    monkeypatch.setattr(copies, "MAX_OPERATIONS", 800 * spec.dims * 100)
    assert nearest_share(samples, train, held_out, spec).samples == 100
    with pytest.raises(ValueError, match="one held-out row"):
        nearest_share(samples, train, held_out[:0], spec)


def test_the_gap_is_the_difference_of_means_with_its_error() -> None:
    train, held_out = torch.tensor([1.0, 2, 3]), torch.tensor([3.0, 5])
    assert mean_gap(train, held_out) == pytest.approx((2.0, math.sqrt(1 / 3 + 2 / 2)))
    with pytest.raises(ValueError, match="two"):
        mean_gap(train, held_out[:1])


# ---- boosted trees --------------------------------------------------------------------------------------------------


def rows_of(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    spec, _ = coded(mixed_rows(n, seed))
    [x] = table_values.matrices(spec.columns, mixed_rows(n, seed))
    return x, table_values.ordered(spec.columns)


def test_a_classifier_cannot_tell_equal_distributions_apart_and_tells_different_ones() -> None:
    x, ordered = rows_of(4000, 1)
    x[np.random.default_rng(0).random(4000) < 0.2, 2] = np.nan
    auc, error = detection_auc(x[:2000], x[2000:], ordered, seed=0)
    assert abs(auc - 0.5) < 3 * error and 0.005 < error < 0.015
    shuffled = np.random.default_rng(0).permuted(x[2000:], axis=0)
    assert detection_auc(x[:2000], shuffled, ordered, seed=0)[0] > 0.65
    with pytest.raises(ValueError, match="5 rows"):
        detection_auc(x[:4], x, ordered, seed=0)


def test_the_error_of_an_auc_is_its_spread() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [40, 60])
    found = [roc_auc_score(y, rng.normal(size=100) + 0.8 * y) for _ in range(1500)]
    assert auc_standard_error(float(np.mean(found)), 40, 60) == pytest.approx(np.std(found), rel=0.1)
    assert auc_standard_error(0.5, 100, 100) == pytest.approx(math.sqrt(201 / (12 * 100 * 100)), rel=1e-3)


@pytest.mark.parametrize(("target", "least"), [(0, 0.3), (2, 0.5), (5, 0.85)])
def test_prediction_learns_what_the_training_rows_hold(target: int, least: float) -> None:
    """Targets: a number (R²), four categories (accuracy), two classes (AUC)."""
    x, ordered = rows_of(3000, 0)
    train, test = x[:2000], x[2000:]
    good = prediction_score(train, test, ordered, target, seed=0)
    rng = np.random.default_rng(0)
    shuffled = train.copy()
    shuffled[:, target] = rng.permutation(train[:, target])
    poor = prediction_score(shuffled, test, ordered, target, seed=0)
    assert least < good < 1 and poor < good - 0.03


def test_prediction_from_a_single_class_is_no_better_than_chance_and_without_two_in_the_test_undefined() -> None:
    x, ordered = rows_of(600, 0)
    one = x[x[:, 5] == x[0, 5]]
    assert prediction_score(one, x, ordered, 5, seed=0) == 0.5
    assert math.isnan(prediction_score(x, one, ordered, 5, seed=0))


def test_columns_without_values_and_infinities_are_accepted() -> None:
    x, ordered = rows_of(200, 0)
    x[:, 1:3] = np.nan
    x[::20, 0] = np.inf
    assert 0.2 < detection_auc(x[:100], x[100:], ordered, seed=0)[0] < 0.8
    assert 0.3 < prediction_score(x[:100], x[100:], ordered, 5, seed=0) <= 1


def test_rare_categories_are_taken_together() -> None:
    x = np.column_stack([np.concatenate([np.arange(400.0), np.full(5, 399.0), [np.nan]])])
    found = boosted_trees.fewer_categories(x, np.array([False]))[:, 0]
    assert np.nanmax(found) == 254 and np.isnan(found[-1]) and found[399] == found[400] == 0
