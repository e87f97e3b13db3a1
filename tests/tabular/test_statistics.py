"""Statistics of columns: independent of blocks and of the way parts are merged; intervals; samples of rows."""

import numpy as np
import pyarrow as pa
import pytest

from gen_ray.tabular.columns import MARKERS
from gen_ray.tabular.inference import infer
from gen_ray.tabular.intervals import MOST_EXAMPLES, divide, equally_probable
from gen_ray.tabular.options import TableOptions
from gen_ray.tabular.row_hashes import SAMPLE, SPLIT, row_hashes
from gen_ray.tabular.statistics import ColumnStatistics, retained_per_column

N = 6_000
RNG = np.random.default_rng(0)
TRAINING = row_hashes("a", np.arange(N), SPLIT) / 2.0**64 > 0.2
HASHES = row_hashes("a", np.arange(N), SAMPLE)
COLUMNS = {
    "normal": pa.array(RNG.normal(size=N).astype(str)),
    "integers": pa.array(np.where(RNG.random(N) < 0.5, 0, RNG.integers(0, 10**6, N)).astype(str)),
    "few": pa.array(RNG.integers(0, 50, N).astype(str)),
    "texts": pa.array([f" word{int(i)} " for i in RNG.exponential(400, N)]),
    "missing": pa.array(np.where(RNG.random(N) < 0.7, "?", RNG.normal(size=N).astype(str))),
    "dates": pa.array([str(np.datetime64("1950-01-01") + int(i)) for i in RNG.integers(0, 20_000, N)]),
    "floats": pa.array(np.where(RNG.random(N) < 0.1, np.nan, RNG.normal(size=N))),
    "dictionary": pa.array(RNG.choice(["a", "b", "NA"], N)).dictionary_encode(),
    "late": pa.array([*RNG.integers(0, 9, N - 1).astype(str), "late"]),
}
LIMITS = [100, 1000, 10**5]


def collected(cells: pa.Array, limit: int, block: int, rows: slice = slice(0, N)) -> ColumnStatistics:
    statistics = ColumnStatistics(MARKERS, limit)
    for start in range(rows.start, rows.stop, block):
        part = slice(start, min(start + block, rows.stop))
        statistics.add(cells.slice(start, part.stop - start), TRAINING[part], HASHES[part])
    return statistics


def result(statistics: ColumnStatistics):
    retained = statistics.retained()
    found = infer("x", statistics, TableOptions(), "the test")
    return (
        retained.values.to_pylist(),
        retained.weights.tolist(),
        retained.exact,
        found.lines,
        found.missing_share,
        found.column and found.column.model_dump(),
    )


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("limit", LIMITS)
def test_the_result_does_not_depend_on_the_size_of_blocks(name, limit):
    whole = result(collected(COLUMNS[name], limit, N))
    assert result(collected(COLUMNS[name], limit, 77)) == whole
    assert result(collected(COLUMNS[name], limit, 1_000)) == whole


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("limit", LIMITS)
def test_merged_statistics_are_those_of_the_whole(name, limit):
    first, second, third = (
        collected(COLUMNS[name], limit, 200, slice(start, stop)) for start, stop in ((0, 1500), (1500, 1700), (1700, N))
    )
    first.merge(second)
    first.merge(third)
    assert result(first) == result(collected(COLUMNS[name], limit, N))


def test_the_limit_decides_between_all_values_and_a_sample():
    exact, sample = (collected(COLUMNS["normal"], limit, 500).retained() for limit in (10**5, 100))
    assert exact.exact and exact.total == TRAINING.sum() == len(exact.values)
    assert not sample.exact and sample.total == 100


def test_the_sample_is_the_rows_with_the_smallest_hashes():
    sample = collected(COLUMNS["normal"], 100, 333).retained()
    order = np.argsort(np.where(TRAINING, HASHES, np.uint64(2**64 - 1)))[:100]
    assert sorted(sample.values.to_pylist()) == sorted(COLUMNS["normal"].take(pa.array(order)).to_pylist())


def test_quantiles_of_a_sample_are_within_their_error():
    n, k = 400_000, 2**14
    values = np.arange(n, dtype=np.float64)
    statistics = ColumnStatistics(MARKERS, k)
    for start in range(0, n, 50_000):
        numbers = np.arange(start, start + 50_000)
        statistics.add(pa.array(values[numbers]), np.ones(50_000, bool), row_hashes("f", numbers, SAMPLE))
    kept = np.sort(statistics.retained().values.to_numpy())
    ranks = (np.arange(k) + 0.5) / k
    assert np.abs(kept / n - ranks).max() < 2.5 / 2 / np.sqrt(k)


def test_long_texts_reduce_the_sample_and_not_the_result():
    cells = pa.array([f"{i} {'long' * 100}" for i in range(N)])
    parts = [collected(cells, 100, block) for block in (N, 50)]
    kept = [part.retained().values.to_pylist() for part in parts]
    assert kept[0] == kept[1] and 0 < len(kept[0]) < 20


def test_the_splits_and_samples_of_rows_are_independent_and_uniform():
    numbers = np.arange(100_000)
    split, sample = (row_hashes("file", numbers, stream) / 2.0**64 for stream in (SPLIT, SAMPLE))
    for u in (split, sample, row_hashes("other", numbers, SPLIT) / 2.0**64):
        assert abs(u.mean() - 0.5) < 0.005 and abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(split, sample)[0, 1]) < 0.02


@pytest.mark.parametrize("most", [2, 3, 10, 128])
@pytest.mark.parametrize("kind", ["normal", "atoms", "many atoms", "geometric"])
def test_intervals(most, kind):
    draws = {
        "normal": RNG.normal(size=5_000),
        "atoms": np.where(RNG.random(5_000) < 0.6, RNG.choice([0.0, 1.0, 7.5], 5_000), RNG.normal(size=5_000)),
        "many atoms": np.where(RNG.random(5_000) < 0.95, RNG.integers(0, 110, 5_000), RNG.normal(50, 40, 5_000)),
        "geometric": RNG.geometric(0.01, 5_000).astype(float),
    }[kind]
    values, weights = np.unique(draws, return_counts=True)
    cut = divide(values, weights, most)
    k = len(cut.starts)
    assert k <= most and k >= min(len(values), most) / 3
    codes = np.searchsorted(cut.starts, draws, side="right") - 1
    assert (codes >= 0).all() and (np.bincount(codes, minlength=k) == cut.weights).all()
    np.testing.assert_allclose(cut.means, np.bincount(codes, draws) / cut.weights, rtol=1e-9, atol=1e-12)
    for code, examples in enumerate(cut.examples):
        assert 1 <= len(examples) <= MOST_EXAMPLES and list(examples) == sorted(examples)
        assert set(examples) <= set(draws[codes == code])
    frequent = values[weights >= len(draws) / most]
    if len(frequent) <= most / 3:  # each has an interval, which ends at the next value
        assert set(frequent) <= set(cut.starts)
        assert all(len(cut.examples[cut.starts.index(value)]) == 1 for value in frequent)
    heavy = np.array([weight for weight, examples in zip(cut.weights, cut.examples, strict=True) if len(examples) > 1])
    assert len(heavy) == 0 or kind == "many atoms" or heavy.max() <= 2 * len(draws) / most + weights.max()


def test_as_many_intervals_as_values_if_they_are_few():
    cut = divide(np.array([-5, 2**60, 2**60 + 1]), np.array([1, 100, 1]), 3)
    assert cut.starts == (-5, 2**60, 2**60 + 1) and cut.examples == ((-5,), (2**60,), (2**60 + 1,))


def test_equally_probable_values_follow_the_weights():
    assert equally_probable(np.array([1, 1, 2]), 4).tolist() == [0, 1, 2, 2]
    assert equally_probable(np.array([10, 30]), 4).tolist() == [0, 1, 1, 1]
    assert equally_probable(np.array([], int), 4).tolist() == []


def test_the_number_of_retained_values_is_limited_in_all():
    assert retained_per_column(15) == 2**16 and retained_per_column(100) == 2**21 // 100
    assert retained_per_column(10**5) == 2**10
