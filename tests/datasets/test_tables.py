"""Tables: types, codes, missing values, columns that are left out, and edge cases of values."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from gen_ray.datasets.prepare import Prepared, SourceOptions, prepare
from gen_ray.datasets.shards import load_split
from gen_ray.dataspec import DataSpec
from gen_ray.tabular import codec
from tests.datasets.small_tables import NUMBERS, RNG, N, codes, column, fault, make


def test_types_codes_and_missing_values(tmp_path):
    day = np.datetime64("1960-01-01") + RNG.integers(0, 9_000, N)
    made = make(
        tmp_path,
        {
            "number": NUMBERS,
            "integer": RNG.integers(0, 90, N),
            "truth": RNG.choice(["True", "false", ""], N),
            "day": day,
            "time": [f"{d}T12:00:00" for d in day],
            "zoned": [f"{d}T00:30:00+02:00" for d in day],
            "kind": RNG.choice(["a", "b", "?", " c "], N),
        },
    )
    assert [(c.name, c.type, c.arrow_type) for c in made.spec.columns] == [
        ("number", "number", "double"),
        ("integer", "integer", "int64"),
        ("truth", "boolean", "bool"),
        ("day", "datetime", "date32[day]"),
        ("time", "datetime", "timestamp[us]"),
        ("zoned", "datetime", "timestamp[us, tz=UTC]"),
        ("kind", "category", "string"),
    ]
    assert sorted(column(made, "kind").categories) == ["a", "b", "c"]
    assert made.spec.shape == (7,) and made.spec.levels == 128 and made.notes == ()
    x = load_split(made, "train")[0]
    assert x.dtype == np.int16 and len(codes(made)) == N
    for d, each in enumerate(made.spec.columns):
        assert each.counts == tuple(np.bincount(x[:, d][x[:, d] >= 0], minlength=each.cardinality).tolist())
    assert (x == -1).any(0).tolist() == [False, False, True, False, False, False, True]
    assert DataSpec.model_validate_json(made.spec.model_dump_json()) == made.spec
    assert Prepared.load(made.folder).spec == made.spec


def test_the_codes_are_those_of_the_values(tmp_path):
    values = {"number": [None if i % 9 == 0 else v for i, v in enumerate(NUMBERS)], "kind": ["x", "y"] * (N // 2)}
    made = make(tmp_path, values)
    table = pa.table({"number": pa.array(values["number"]), "kind": values["kind"]})
    expected = codec.encode(table, made.spec.columns, "the table")
    assert sorted(map(tuple, codes(made).tolist())) == sorted(map(tuple, expected.tolist()))


def test_every_value_that_a_code_stands_for_has_that_code(tmp_path):
    made = make(
        tmp_path,
        {
            "number": RNG.lognormal(0, 3, N),
            "counts": np.where(RNG.random(N) < 0.4, 0, RNG.integers(0, 100_000, N)),
            "time": np.datetime64("1960-01-01T00:00:00") + RNG.integers(0, 10**9, N),
            "kind": [f"k{int(i)}" for i in RNG.exponential(8, N)],
        },
    )
    for each in made.spec.columns:
        all_codes = np.repeat(np.arange(each.cardinality, dtype=np.int32), 50)
        u = np.tile(np.arange(50) / 50, each.cardinality)
        assert (each.encode(each.decode(all_codes, u)) == all_codes).all(), each.name
    assert column(made, "counts").labels[0] == "0"
    assert column(made, "counts").counts[0] > 0.3 * made.rows["train"]


def test_validation_and_test_rows_have_no_influence_on_the_codes(tmp_path):
    made = make(tmp_path, {"number": NUMBERS, "kind": ["a", "b"] * (N // 2)})
    hidden = made.rows["validation"] + made.rows["test"]
    assert sum(column(made, "number").counts) == made.rows["train"] == N - hidden
    assert sum(column(made, "kind").counts) == made.rows["train"]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["7"] * N, "all its values are 7"),
        ([7.5, None] * (N // 2), "all its values are 7.5"),
        (["a"] * N, "all its values are 'a'"),
        (["true"] * N, "all its values are true"),
        (["2020-01-01"] * N, "all its values are 2020-01-01"),
        ([None, "NA"] * (N // 2), "all its values are missing"),
        (range(1000, 1000 + N), "an identifier, different and nearly consecutive integers"),
        ([f"person {i}" for i in range(N)], "an identifier, nearly all its texts are different"),
        ([f"person {i // 4}" for i in range(N)], "each of its values occurs in fewer than 5 training rows"),
    ],
)
def test_columns_without_use_are_left_out_with_a_line(tmp_path, cells, reason):
    made = make(tmp_path, {"x": NUMBERS, "y": list(cells)})
    assert [c.name for c in made.spec.columns] == ["x"]
    [line] = made.notes
    assert line.startswith(f"column 'y' is left out: {reason}")
    assert ("keep=true" in line) == ("identifier" in reason or "each" in reason)
    assert "all columns are left out" in fault(tmp_path, {"y": list(cells)})


def test_keep_and_leave_out(tmp_path):
    values = {"x": NUMBERS, "id": range(N), "name": [f"person {i}" for i in range(N)]}
    made = make(tmp_path, values, columns={"id": {"keep": True}, "name": {"keep": True}, "x": {"keep": False}})
    assert [c.name for c in made.spec.columns] == ["id", "name"]
    assert made.notes == ("column 'x' is left out: data.options.columns.x.keep is false",)
    assert column(made, "name").cardinality == 257


def test_settings_of_columns(tmp_path):
    values = {
        "code": RNG.integers(0, 9, N),
        "temperature": np.where(RNG.random(N) < 0.2, -999, RNG.integers(0, 500, N)),
        "day": [f"{d:02d}/03/1960" for d in RNG.integers(1, 28, N)],
        "reply": RNG.choice(["yes", "no", ""], N),
    }
    made = make(
        tmp_path,
        values,
        columns={
            "code": {"type": "category"},
            "temperature": {"type": "number", "missing": [-999], "bins": 10},
            "day": {"format": "%d/%m/%Y"},
            "reply": {"missing_as_category": True},
        },
        target="reply",
    )
    code, temperature, day, reply = made.spec.columns
    assert (code.type, code.cardinality) == ("category", 10)
    assert temperature.cardinality == 10 and temperature.starts[0] >= 0 and temperature.missing == ("-999",)
    assert str(day.decode(np.array([0]), np.zeros(1))[0]) == "1960-03-01 00:00:00"
    assert reply.labels == (*reply.categories, "missing", "other") and reply.counts[2] > 0
    assert reply.decode(np.array([2, -1]), np.zeros(2)).to_pylist() == [None, None]
    x = codes(made)
    assert ((x == -1).sum(0) > 0).tolist() == [False, True, False, False]
    assert made.spec.target == "reply"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"agee": {"type": "number"}}}, "data.options.columns.agee: unknown column, did you mean 'age'?"),
        ({"target": "agee"}, "data.options.target=agee: unknown column, did you mean 'age'?"),
        ({"target": "one"}, "data.options.target=one: is left out (all its values are 1); "),
        ({"columns": {"age": {"typ": "number"}}}, "data.options.columns.age.typ: .*did you mean 'type'?"),
        ({"columns": {"age": {"type": "numbr"}}}, "data.options.columns.age.type: must be"),
        ({"columns": {"age": {"missing_as_category": True}}}, "age.missing_as_category: the column is of type integer"),
        ({"columns": {"kind": {"type": "number"}}}, "'kind' has only other values than .*kind.type=number expects"),
        (
            {"columns": {"kind": {"type": "datetime"}}},
            "'a' is not a time such as 2026-01-31 .*kind.format gives another",
        ),
        ({"columns": {"age": {"type": "datetime"}}}, "'age' has only other values than"),
        ({"columns": {"kind": {"format": "%Y"}}}, "kind.format=%Y expects: 'a' is not a time of the format %Y"),
        ({"columns": {"kind": {"type": "boolean"}}}, "'a' is not true or false"),
        ({"delimiter": ",,"}, "delimiter: must be tab or one ASCII character"),
        ({"shape": [3]}, "on source 'csv'"),
    ],
)
def test_settings_that_do_not_suit_the_data(tmp_path, options, message):
    text = fault(tmp_path, {"age": RNG.integers(0, 90, N), "one": [1] * N, "kind": ["a", "b"] * (N // 2)}, **options)
    assert re.search(message.replace("?", r"\?").replace("(", r"\(").replace(")", r"\)"), text), text


def test_infinite_numbers_are_refused_with_the_remedy(tmp_path):
    values = {"x": ["inf", *NUMBERS[1:-1], "-Infinity"]}
    message = fault(tmp_path, values)
    assert "rows.csv: column 'x' has infinite numbers" in message and "columns.x.missing=['', inf, -inf]" in message
    made = make(tmp_path, columns={"x": {"missing": ["", "inf", "-Infinity"]}})
    assert (codes(made) == -1).sum() == 2
    table = pa.table({"x": [float("inf"), *NUMBERS[1:]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert "column 'x' has infinite numbers" in fault(tmp_path, source="parquet:rows.parquet")
    made = make(tmp_path, source="parquet:rows.parquet", columns={"x": {"missing": ["inf"]}})
    assert (codes(made) == -1).sum() == 1


def test_integers_beyond_2_53_stay_exact(tmp_path):
    values = [2**60 + 3 * i % 101 for i in range(N)]
    made = make(tmp_path, {"big": values, "x": NUMBERS})
    big = column(made, "big")
    assert set(big.starts) <= set(values) and big.cardinality == 101
    assert big.encode(pa.array([2**60 + 1, 2**60 + 2])).tolist() == [1, 2]
    made = make(tmp_path, {"big": [2**63 + i % 7 for i in range(N)], "x": NUMBERS})
    assert "'big' is read as a number, to 15 digits" in made.notes[0]


def test_dates_before_1970_and_with_zones(tmp_path):
    values = [f"19{i % 60:02d}-06-01T00:30:00{'+02:00' if i % 2 else 'Z'}" for i in range(N)]
    made = make(tmp_path, {"time": values})
    [time] = made.spec.columns
    decoded = time.decode(np.array([0, 1]), np.zeros(2))
    assert [str(value) for value in decoded] == ["1900-06-01 00:30:00+00:00", "1901-05-31 22:30:00+00:00"]
    mixed = make(tmp_path, {"time": [*values[:-1], "1901-06-01T00:30:00"]})
    assert mixed.spec.columns[0].type == "category"


def test_sixty_thousand_categories(tmp_path):
    n = 240_000
    values = np.where(RNG.random(n) < 0.5, RNG.integers(0, 300, n), RNG.integers(0, 60_000, n))
    assert len(np.unique(values)) > 50_000
    made = make(tmp_path, {"kind": [f"k{v}" for v in values], "x": RNG.integers(0, 9, n)})
    kind = column(made, "kind")
    assert kind.cardinality == 257 and len(kind.rare) == 64
    counted = np.bincount(values, minlength=60_000)
    assert {int(name[1:]) for name in kind.categories} <= set(np.flatnonzero(counted > 300).tolist())
    assert all(250 < count < 450 for count in kind.counts[:256])
    assert kind.counts[256] == made.rows["train"] - sum(kind.counts[:256])


def test_preparing_again_gives_the_same_bytes(tmp_path):
    values = {"x": RNG.normal(size=N), "kind": RNG.choice(["a", "b"], N)}
    first = make(tmp_path, values)
    again = prepare("csv:rows.csv", root=tmp_path, out=tmp_path / "again")
    assert again.fingerprint == first.fingerprint and again.spec == first.spec


def test_the_source_fingerprint_is_the_same_for_all_intervals_of_the_same_rows(tmp_path):
    values = {"x": NUMBERS, "kind": RNG.choice(["a", "b"], N)}
    first = make(tmp_path, values)
    coarse = make(tmp_path, bins=8)
    of_a_column = make(tmp_path, columns={"x": {"bins": 4}})
    assert len({one.fingerprint for one in (first, coarse, of_a_column)}) == 3
    assert len({one.source_fingerprint for one in (first, coarse, of_a_column)}) == 1
    assert Prepared.load(coarse.folder).source_fingerprint == coarse.source_fingerprint != ""
    less = make(tmp_path, missing=["a"])
    typed = make(tmp_path, columns={"x": {"type": "category", "bins": 4, "keep": True}})
    other = make(tmp_path, {**values, "x": [*NUMBERS[:-1], 9.25]})
    (tmp_path / "renamed.csv").write_bytes((tmp_path / "rows.csv").read_bytes())
    renamed = make(tmp_path, source="csv:renamed.csv")  # other rows are test rows
    found = [one.source_fingerprint for one in (first, less, typed, other, renamed)]
    assert len(set(found)) == 5
    (tmp_path / "copy").mkdir()
    assert make(tmp_path / "copy", values).source_fingerprint == first.source_fingerprint
    tables = [prepare(name, out=tmp_path).source_fingerprint for name in ("iris", "wine")]
    assert tables[0] != tables[1] and prepare("digits", out=tmp_path).source_fingerprint == ""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_hidden_cells_are_a_share_of_the_training_and_validation_values(tmp_path, kind):
    table = pa.table({"number": NUMBERS, "kind": pa.array(["x", "x", "x", "y"] * (N // 4)).dictionary_encode()})
    file = tmp_path / f"some.{kind}"
    if kind == "csv":
        csv.write_csv(pa.table({"number": NUMBERS, "kind": ["x", "x", "x", "y"] * (N // 4)}), file)
    else:
        pq.write_table(table, file)
    whole, made = (
        prepare(f"{kind}:{file}", out=tmp_path / str(share), options=SourceOptions(hide_share=share))
        for share in (0.0, 0.3)
    )
    assert made.fingerprint != whole.fingerprint
    for split in ("train", "validation", "test"):
        full, part = (load_split(one, split)[0] for one in (whole, made))
        assert len(full) == len(part) and (full >= 0).all()
        np.testing.assert_allclose(
            (part < 0).mean(0), 0.0 if split == "test" else 0.3, atol=4 * (0.21 / len(part)) ** 0.5
        )
        assert np.array_equal(full[:, 1][part[:, 1] >= 0], part[:, 1][part[:, 1] >= 0])
