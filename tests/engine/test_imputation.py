"""Scores of imputations: hidden cells, prediction intervals, closed forms, and the other methods."""

import math

import numpy as np
import pytest
import torch

from gen_ray.bench.imputing import MODEL, ImputationPlan, compare
from gen_ray.engine.evaluation import imputation
from gen_ray.engine.evaluation.hidden_cells import KINDS, hidden_cells
from gen_ray.engine.evaluation.imputation import Imputed, scores
from gen_ray.engine.evaluation.imputation_baselines import BASELINES
from tests import tabular_joint
from tests.engine.overfitted import rows, trained
from tests.engine.row_models import perfect_model
from tests.tabular_cases import coded, mixed_rows

CPU = torch.device("cpu")


def gaussian(n: int, rho: float = 0.9, seed: int = 0) -> np.ndarray:
    """Return rows (n, 3): two correlated standard normals, and the sign of the first as a category."""
    x = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    return np.column_stack([x, x[:, 0] > 0])


ORDERED = np.array([True, True, False])


@pytest.mark.parametrize("kind", KINDS)
def test_the_share_of_hidden_cells_is_as_asked_and_a_missing_cell_is_never_hidden(kind: str) -> None:
    spec, codes = coded(mixed_rows(4000))
    codes[:, 0][:500] = -1
    hidden = hidden_cells(codes, spec, kind, share=0.3, seed=0)
    assert not hidden[:500, 0].any() and np.array_equal(hidden, hidden_cells(codes, spec, kind, share=0.3, seed=0))
    shares = hidden[500:].mean(0)
    used = shares[shares > 0]
    np.testing.assert_allclose(used, 0.3, atol=0.04)
    assert len(used) == (3 if kind == "at_random" else 6)
    assert not np.array_equal(hidden, hidden_cells(codes, spec, kind, share=0.3, seed=1))


def test_the_kinds_differ_in_what_being_hidden_depends_on() -> None:
    """Compared are the ranks of the values of hidden and of visible cells of a column."""
    x = gaussian(20_000, rho=0.0)
    spec, codes = coded({"a": x[:, 0], "b": x[:, 1]})
    for kind, of_itself, of_other in (
        ("completely_at_random", False, False), ("at_random", False, True), ("not_at_random", True, False),
    ):  # fmt: skip
        hidden = hidden_cells(codes, spec, kind, share=0.3, seed=3)
        d = int(np.argmax(hidden.sum(0)))
        gaps = [abs(x[hidden[:, d], c].mean() - x[~hidden[:, d], c].mean()) for c in (d, 1 - d)]
        assert [gap > 0.2 for gap in gaps] == [of_itself, of_other], kind


def test_scores_have_their_closed_forms() -> None:
    truth = np.array([[1.0, 5, 0], [2, 6, 1], [3, 7, 1], [4, 8, 0]])
    hidden = np.array([[True, False, True], [True, False, True], [False, True, False], [False, False, True]])
    mean = truth + np.array([2.0, 4, 0])
    median = truth + np.array([1.0, -4, 1])
    median[0, 2] = truth[0, 2]
    found = scores(
        Imputed(mean=mean, median=median, lower=truth - 1, upper=truth + np.array([0.5, -0.5, 0])),
        truth, hidden, ORDERED, np.array([2.0, 4.0, 1.0]),
    )  # fmt: skip
    assert found.rmse == pytest.approx(1) and found.mae == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert found.accuracy == pytest.approx(1 / 3) and found.coverage == pytest.approx(2 / 3) and found.cells == 6
    nothing = scores(Imputed(mean=mean, median=median), truth, hidden & ~ORDERED, ORDERED, np.ones(3))
    assert math.isnan(nothing.rmse) and math.isnan(nothing.coverage) and nothing.accuracy == pytest.approx(1 / 3)


def test_other_methods_keep_known_cells_and_reach_the_error_of_the_conditional_mean() -> None:
    """Of two normals with correlation 0.9, the conditional mean of one has the error sqrt(1 - 0.81) = 0.436."""
    learned, truth = gaussian(1500), gaussian(800, seed=1)
    hidden = np.zeros(truth.shape, bool)
    hidden[::3, 0], hidden[1::3, 1], hidden[2::3, 2] = True, True, True
    visible = np.where(hidden, np.nan, truth)
    found = {}
    for name, impute in BASELINES.items():
        filled = impute(learned, visible, ORDERED, 0)
        assert np.array_equal(filled[~hidden], truth[~hidden]) and not np.isnan(filled).any()
        assert np.isin(filled[:, 2], [0, 1]).all()
        found[name] = scores(Imputed(mean=filled, median=filled), truth, hidden, ORDERED, np.ones(3))
    assert found["mean or mode"].rmse == pytest.approx(1, abs=0.08)
    best = math.sqrt(1 - 0.9**2)  # less where the sign of the value is known
    assert 0.7 * best < found["MICE"].rmse < 1.05 * best and found["chain of boosted trees"].rmse < 1.1 * best
    assert found["mean or mode"].accuracy == pytest.approx(0.5, abs=0.1)
    assert found["MICE"].accuracy > 0.9 and found["chain of boosted trees"].accuracy > 0.95


@pytest.mark.parametrize("name", BASELINES)
def test_a_column_without_values_is_filled_with_zeros_and_the_others_as_well(name: str) -> None:
    learned, visible = (np.column_stack([gaussian(60, seed=seed), np.full((60, 2), np.nan)]) for seed in (0, 1))
    visible[::3, 0] = np.nan
    visible[1::3, 2] = np.nan
    filled = BASELINES[name](learned, visible, np.array([True, True, False, True, False]), 0)
    assert not np.isnan(filled).any() and (filled[:, 3:] == 0).all() and np.isin(filled[:, 2], [0, 1]).all()


def test_a_trained_model_is_compared_with_the_others_on_the_same_cells() -> None:
    spec, x = rows(1700)
    codes = x.numpy()
    codes[:50, 1] = -1
    model = trained(spec, x[:1500], 300)
    plan = ImputationPlan(kinds=["completely_at_random"], k=19, methods=["mean or mode"])
    mine, simple = compare(model, codes[:1500], codes[1500:], plan, device=CPU)
    assert [mine.method, simple.method] == [MODEL, "mean or mode"] and mine.scores.cells == simple.scores.cells > 300
    assert mine.scores.rmse < simple.scores.rmse and mine.scores.accuracy > simple.scores.accuracy
    assert 0.8 < mine.scores.coverage < 0.97 and math.isnan(simple.scores.coverage)
    assert mine.figures().keys() >= {"kind", "method", "minutes", "rmse", "mae", "accuracy", "coverage", "cells"}


def test_draws_and_exact_marginals_give_the_same_imputations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = perfect_model(), tabular_joint.ROWS.numpy()
    hidden = np.zeros(codes.shape, bool)
    hidden[:, 0] = True
    exact = imputation.by_model(model, codes, hidden, 1, seed=0, device=CPU)
    assert exact.lower is not None and not np.isnan(exact.lower[:, 0]).any() and np.isnan(exact.mean[:, 1:]).all()
    monkeypatch.setattr(imputation.chains, "marginals", lambda *_: None)
    drawn = imputation.by_model(model, codes, hidden, 600, seed=0, device=CPU)
    np.testing.assert_allclose(drawn.mean[:, 0], exact.mean[:, 0], atol=1)  # means of integers are rounded
    assert np.isnan(drawn.mean[:, 1:]).all()
