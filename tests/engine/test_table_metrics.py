"""Column-shape and pair-trend errors: closed forms, and the figures of SDMetrics for the same rows."""

import math

import numpy as np
import pyarrow as pa
import pytest

from gen_ray.engine.evaluation import table_metrics, table_values
from gen_ray.engine.evaluation.table_metrics import chosen_pairs, column_errors, pair_errors
from tests.tabular_cases import coded, mixed_rows, spec_of

SDMETRICS = {
    "columns": [0.363333333333, 0.035833333333, 0.064999998625, 0.048333333333, 0.045, 0.05],
    "pairs": [
        0.177005839088,
        0.3625,
        0.016458805104,
        0.356666666667,
        0.3925,
        0.114166666667,
        0.024069063728,
        0.074166666667,
        0.078333333333,
        0.169166666667,
        0.103333333333,
        0.0975,
        0.075833333333,
        0.11,
        0.058333333333,
    ],
}
"""Errors of ``other_rows`` by SDMetrics 0.32.0 (MIT licence), computed by its own classes in a separate environment,
because it needs pandas < 3: KSComplement, TVComplement, CorrelationSimilarity, and ContingencySimilarity with
``continuous_column_names`` for ordered columns next to others. Pairs in the order of itertools.combinations."""


def other_rows() -> tuple[pa.Table, pa.Table]:
    """Return real rows, and rows of another size whose marginals and dependence differ."""
    real, synthetic = mixed_rows(600, seed=0), mixed_rows(400, seed=1)
    shuffled = synthetic.column("level").take(np.random.default_rng(2).permutation(400))
    synthetic = synthetic.set_column(0, "level", pa.array(shuffled.to_numpy() * 1.2 + 1))
    kinds = ["e" if kind == "d" else kind for kind in synthetic.column("kind").to_pylist()]
    return real, synthetic.set_column(2, "kind", pa.array(kinds))


def compared(real: pa.Table, synthetic: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    columns = spec_of(real).columns
    a, b = table_values.matrices(columns, real, synthetic)
    ordered = table_values.ordered(columns)
    return column_errors(a, b, ordered), pair_errors(a, b, ordered)


def test_errors_equal_those_of_sdmetrics() -> None:
    columns, pairs = compared(*other_rows())
    np.testing.assert_allclose(columns, SDMETRICS["columns"], atol=2e-6)  # it adds 1e-6 to counts of 0
    np.testing.assert_allclose(pairs, SDMETRICS["pairs"], atol=1e-9)


def test_equal_tables_have_no_error_whatever_the_order_of_their_rows() -> None:
    rows = mixed_rows(300)
    for found in compared(rows, rows.take(np.random.default_rng(0).permutation(300))):
        np.testing.assert_allclose(found, 0, atol=1e-12)


def test_missing_values_are_left_out_of_columns_and_pairs() -> None:
    rows = mixed_rows(300)
    hidden = {name: pa.array(rows.column(name).to_pylist(), mask=np.arange(300) % 3 == i % 3)
              for i, name in enumerate(rows.schema.names)}  # fmt: skip
    partly = pa.table({name: pa.array(values, rows.schema.field(name).type) for name, values in hidden.items()})
    columns, pairs = compared(partly, partly)
    np.testing.assert_allclose(columns, 0, atol=1e-12)
    np.testing.assert_allclose(pairs, 0, atol=1e-12)
    kept = compared(rows.take(np.flatnonzero(np.arange(300) % 3 != 0)), partly)[0]
    assert kept[0] == pytest.approx(0)  # the first column lacks the same rows in both


def test_the_error_of_shuffled_columns_is_half_their_correlation_and_the_known_distance_of_their_joint() -> None:
    rng, rho, n = np.random.default_rng(0), 0.8, 200_000
    x = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    signs = x > 0  # P(equal signs) = 1/2 + asin(rho)/pi (Sheppard 1899)
    real = np.column_stack([x, signs]).astype(np.float64)
    shuffled = np.column_stack([rng.permutation(column) for column in real.T])
    ordered = np.array([True, True, False, False])
    np.testing.assert_allclose(column_errors(real, shuffled, ordered), 0, atol=1e-12)
    found = dict(zip(chosen_pairs(4), pair_errors(real, shuffled, ordered), strict=True))
    assert found[0, 1] == pytest.approx(rho / 2, abs=3 / math.sqrt(n))
    assert found[2, 3] == pytest.approx(math.asin(rho) / math.pi, abs=4 / math.sqrt(n))


@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.4])
def test_the_association_of_a_gaussian_copula_is_its_correlation(rho: float) -> None:
    x = np.random.default_rng(1).multivariate_normal([3, -2], [[1, rho], [rho, 1]], 40_000)
    both = np.array([True, True])
    assert table_metrics.association(x, both) == pytest.approx(rho, abs=0.02)
    same = np.column_stack([x[:, 0] > 0, x[:, 0] > 0]).astype(np.float64)
    assert table_metrics.association(same, ~both) == pytest.approx(1)


def test_one_shifted_interval_of_a_column_is_its_kolmogorov_smirnov_distance() -> None:
    a = np.arange(100.0)
    assert table_metrics.kolmogorov_smirnov(a, a + 7) == pytest.approx(0.07)
    assert table_metrics.kolmogorov_smirnov(a, a[:50]) == pytest.approx(0.5)
    assert table_metrics.total_variation(np.array([0.0, 0, 1, 2]), np.array([0.0, 3])) == pytest.approx(0.5)


def test_a_column_without_values_and_a_constant_have_no_figure() -> None:
    empty, constant, x = np.full(50, np.nan), np.ones(50), np.arange(50.0)
    real, ordered = np.column_stack([empty, constant, x, x]), np.array([True, True, True, False])
    assert np.isnan(column_errors(real, real, ordered)).tolist() == [True, False, False, False]
    found = dict(zip(chosen_pairs(4), np.isnan(pair_errors(real, real, ordered)), strict=True))
    assert found == {(0, 1): True, (0, 2): True, (0, 3): True, (1, 2): True, (1, 3): False, (2, 3): False}


def test_infinities_are_values_of_the_outer_intervals_and_not_part_of_correlations() -> None:
    rng = np.random.default_rng(0)
    real = np.column_stack([rng.normal(size=(200, 2)), rng.integers(0, 2, 200)])
    real[:4, 0] = [np.inf, -np.inf, np.inf, np.inf]
    ordered = np.array([True, True, False])
    np.testing.assert_allclose(pair_errors(real, real, ordered), 0, atol=1e-12)
    assert column_errors(real, real[4:], ordered)[0] > 0.005


def test_a_choice_of_pairs_holds_different_pairs_of_all_columns() -> None:
    assert chosen_pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    some = chosen_pairs(300, limit=2000)
    assert len(set(some)) == 2000 and all(0 <= i < j < 300 for i, j in some)
    assert some == chosen_pairs(300, limit=2000) and max(j for _, j in some) > 290 and min(i for i, _ in some) < 10
    assert set(chosen_pairs(40, limit=779)) < set(chosen_pairs(40))


def test_decoded_codes_have_the_marginals_of_their_values() -> None:
    rows = mixed_rows(5000)
    spec, codes = coded(rows, intervals=64)
    columns, pairs = compared(rows, table_values.decoded(codes, spec, seed=0))
    assert columns.max() < 0.02 and np.nanmax(pairs) < 0.02
    codes[:10] = -1
    assert table_values.decoded(codes, spec, seed=0).column("kind").null_count == 10
