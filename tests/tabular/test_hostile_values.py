"""Values of every Arrow type and size: a column has codes for them, or leaves them out with one line."""

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_ray.engine.inference.rows.statistics import of_draws, of_marginals
from gen_ray.engine.inference.table_rows import as_json
from gen_ray.errors import UserError
from gen_ray.tabular.codec import encode_cells
from gen_ray.tabular.columns import MISSING, OrderedColumn
from gen_ray.tabular.inference import Finding, infer
from gen_ray.tabular.options import ColumnOptions, TableOptions
from gen_ray.tabular.statistics import ColumnStatistics
from gen_ray.tabular.texts import parse_cells, shown

WHOLE = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3), st.sampled_from([2**63 - 1, -(2**63)]))
REAL = st.one_of(st.floats(width=64), st.sampled_from([0.0, -0.0, 5e-324, 1.7976931348623157e308, 1e39]))
TIMES = [
    pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin", "+01:00")
]
TEXTS = st.sampled_from(
    ["", "a", "NA", "1", "-0", "+7", "1.0", "1e999", "inf", "0x10", "007", "9" * 25, "true", "False", " x ", "\0"]
)
TIME_TEXTS = st.sampled_from(
    ["0000-01-01", "9999-12-31", "1969-12-31T23:59:60", "2020-01-01T00:00:00+25:00", "2020-01-01T00:00:00Z", "2020-1"]
)


def arrays(kind: pa.DataType) -> st.SearchStrategy[pa.Array]:
    """Return arrays of a type with nulls, some values repeated."""
    if pa.types.is_string(kind):
        values = TEXTS | TIME_TEXTS
    elif pa.types.is_boolean(kind):
        values = st.booleans()
    elif pa.types.is_floating(kind):
        return lists(REAL).map(lambda some: pa.array(some, pa.float64()).cast(kind, safe=False))
    elif pa.types.is_decimal(kind):
        values = st.integers(-(10**9), 10**9).map(lambda n: Decimal(n) / 100)
    else:
        bits = kind.bit_width
        low, high = (
            (0, 2**bits - 1) if pa.types.is_unsigned_integer(kind) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        whole = st.one_of(WHOLE, st.integers(0, 2**64 - 1)).filter(lambda n: low <= n <= high)
        plain = kind if pa.types.is_integer(kind) else pa.int32() if bits == 32 else pa.int64()
        return lists(whole).map(lambda some: pa.array(some, plain).view(kind))
    return lists(values).map(lambda some: pa.array(some, kind))


def lists(values: st.SearchStrategy) -> st.SearchStrategy[list]:
    return st.lists(st.one_of(st.none(), values), min_size=1, max_size=12).map(lambda some: some * 5)


KINDS = [pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(12, 2)]
KINDS += [pa.bool_(), pa.date32(), pa.string(), *TIMES]
ANY = st.sampled_from(KINDS).flatmap(arrays)


def found(cells: pa.Array, **own: object) -> Finding:
    statistics = ColumnStatistics(TableOptions().missing, 1000)
    statistics.add(cells, np.ones(len(cells), bool), np.arange(len(cells), dtype=np.uint64))
    return infer("v", statistics, TableOptions(bins=4, columns={"v": ColumnOptions(**own)}), "rows.parquet")


@settings(max_examples=100, deadline=None)
@given(cells=ANY, kind=st.sampled_from([None, "number", "integer", "datetime", "category", "boolean"]))
def test_every_column_has_codes_or_a_reason(cells, kind):
    """A code is in range, stands for values that have this code, and its values are JSON."""
    try:
        finding = found(cells, keep=True, type=kind)
    except UserError as error:
        finding = Finding("v", None, 0, left_out=str(error))
    assert all("\n" not in line for line in finding.lines)
    if (column := finding.column) is None:
        assert finding.left_out
        return
    codes, bad = encode_cells(cells, column)
    assert ((codes >= MISSING) & (codes < column.cardinality)).all()
    assert all(shown(cells[int(i)]) for i in np.flatnonzero(bad))
    for u in (0.0, 0.5, 0.999):
        every = np.arange(column.cardinality)
        values = column.decode(every, np.full(len(every), u))
        json.dumps(as_json(values), allow_nan=False)
        if isinstance(column, OrderedColumn):
            assert (column.encode(values) == every).all()


@settings(max_examples=40, deadline=None)
@given(cells=st.sampled_from([pa.int8(), pa.int64(), pa.float32(), pa.float64(), TIMES[2], TIMES[13]]).flatmap(arrays))
def test_summaries_of_cells_stay_within_the_values(cells):
    """Means near the ends of a type neither overflow nor leave the range of the column."""
    try:
        column = found(cells).column
    except UserError:  # infinite numbers
        return
    if not isinstance(column, OrderedColumn):
        return
    K = column.cardinality
    p = np.full((1, K), 1 / K)
    every = np.arange(K)[None]
    low, high = column.starts[0], column.examples[-1][-1]
    for fill in ("mean", "median", "mode"):
        for summary in (of_marginals(column, p, fill, 0.9), of_draws(column, every, np.full((1, K), 0.5), fill, 0.9)):
            [number] = column.as_numbers(summary.values).to_pylist()
            assert low <= number <= high


@pytest.mark.parametrize(
    ("cells", "own", "line"),
    [
        (pa.array([2**31 - 1] * 9, pa.int32()).cast(pa.date32()), {}, "none of its values is a time"),
        (pa.array([1, 2] * 9, pa.timestamp("us", "Foo/Bar")), {}, "tz=Foo/Bar] are not supported"),
        (pa.array([1.5] * 9), {"type": "integer"}, "has only other values than"),
    ],
)
def test_columns_without_usable_values(cells, own, line):
    try:
        text = found(cells, **own).left_out
    except UserError as error:
        text = str(error)
    assert line in text


@pytest.mark.parametrize(
    ("cells", "kind", "bad"),
    [
        (pa.array([1.0, 1.5, 1e300]), pa.int64(), [False, True, True]),
        (pa.array([1, 2**64 - 1], pa.uint64()), pa.uint64(), [False, True]),
        (pa.array([1, 300], pa.int64()), pa.int8(), [False, True]),
        (pa.array([1, 10**10], pa.timestamp("s")), pa.timestamp("ns"), [False, True]),
        (pa.array([-1, 1], pa.timestamp("ns")), pa.timestamp("us"), [False, False]),
        (pa.array([0, 1, 2]), pa.bool_(), [False, False, True]),
    ],
)
def test_values_that_a_type_does_not_have_are_marked(cells, kind, bad):
    from tests.tabular_cases import column_of

    column = column_of("v", pa.array([0, 1]).cast(kind), 4, 0)
    assert parse_cells(cells, column).bad.tolist() == bad


def test_markers_of_decimals():
    cells = pa.array([Decimal("-999.00"), Decimal("1.50"), Decimal("2.50")] * 9)
    statistics = ColumnStatistics(("-999",), 100)
    statistics.add(cells, np.ones(27, bool), np.arange(27, dtype=np.uint64))
    assert statistics.known == 18
