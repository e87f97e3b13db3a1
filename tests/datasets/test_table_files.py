"""Sources of tables: CSV and Parquet files, bad rows, files that do not agree, and the tables of scikit-learn."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_ray.datasets.prepare import SourceOptions, prepare
from gen_ray.errors import UserError
from gen_ray.tabular import codec
from tests.datasets.small_tables import NUMBERS, RNG, N, codes, column, csv, fault, make


def test_ragged_rows_are_bad_rows(tmp_path):
    path = csv(tmp_path, {"x": NUMBERS, "kind": ["a", "b"] * (N // 2)})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "1", *lines[4:9], "1,a,b", *lines[9:]]) + "\n")
    assert "rows.csv, row 3: 1 cells, where the header has 2" in fault(tmp_path)
    made = make(tmp_path, skip=2)
    assert made.quarantined == 2 and sum(made.rows.values()) == N
    assert '"row": 9' in (made.folder / "quarantine.jsonl").read_text()


def test_texts_that_are_not_values_of_the_stated_type_are_bad_rows(tmp_path):
    values = {"x": [*NUMBERS[:-2], "much", "1,5"], "kind": ["a", "b"] * (N // 2)}
    csv(tmp_path, values, delimiter=";")
    options = {"columns": {"x": {"type": "number"}}}
    assert f"row {N - 2}: 'much' in column 'x' is not a number of type double" in fault(tmp_path, **options)
    made = make(tmp_path, skip=2, **options)
    assert made.quarantined == 2 and column(made, "x").type == "number"


def test_a_column_of_numbers_with_a_few_texts_is_reported(tmp_path):
    values = np.array(NUMBERS.round(1).astype(str))
    values[[5, 50, 55]] = ["unknown", "-", "-"]
    made = make(tmp_path, {"x": values, "y": NUMBERS})
    assert column(made, "x").type == "category"
    [line] = made.notes
    assert "'x' is read as a category: 99." in line and "'-'" in line and "data.options.columns.x.missing" in line
    fixed = make(tmp_path, columns={"x": {"missing": ["unknown", "-"]}})
    assert column(fixed, "x").type == "number" and fixed.notes == ()


def test_empty_cells_that_no_longer_mark_missing_values_are_reported(tmp_path):
    values = ["" if i % 8 == 0 else 150 + i % 40 if i % 7 else 0 for i in range(N)]
    made = make(tmp_path, {"height": values}, columns={"height": {"missing": [0]}})
    [line] = made.notes
    assert "'height' is read as a category: " in line and "but not ''; if these mark missing values" in line
    fixed = make(tmp_path, columns={"height": {"missing": ["", 0]}})
    assert column(fixed, "height").type == "integer" and (codes(fixed) == -1).mean() > 0.2


DAYS = np.datetime64("2015-01-01") + np.arange(N) % 180
TIMES = [day.item() for day in DAYS]


@pytest.mark.parametrize(
    ("cells", "remark"),
    [
        ([f"{day:%d/%m/%Y}" for day in TIMES], "look like times; data.options.columns.x.format"),
        ([f"{day:%m/%d/%y}" for day in TIMES], "look like times; "),
        ([f"{day:%Y/%m/%d}" for day in TIMES], "look like times; "),
        ([f"{day:%d.%m.%Y} 07:30" for day in TIMES], "look like times; "),
        ([f"{day:%d-%b-%y}" for day in TIMES], "look like times; "),
        ([f"{day:%B %d %Y}" for day in TIMES], "look like times; "),
        ([f"{value:.1f}".replace(".", ",") for value in NUMBERS], "look like numbers; write them as 1234.5"),
        ([f"{value:.1f}%" for value in NUMBERS], "look like numbers; "),
        ([f"€ {abs(value):.1f}" for value in NUMBERS], "look like numbers; "),
        ([f"{1e5 * abs(value):,.2f}" for value in NUMBERS], "look like numbers; "),
        (["often" if i % 4 == 0 else f"the name {i % 160}" for i in range(N)], "values are the category other"),
        ([f"10.{i % 3}.0.{i % 5}" for i in range(N)], ""),
        ([f"030-{i % 9}55-{i % 7}" for i in range(N)], ""),
        ([("S", "M", "L")[i % 3] for i in range(N)], ""),
    ],
)
def test_texts_that_look_like_another_type_are_reported(tmp_path, cells, remark):
    csv(tmp_path, {"x": [*cells[:-1], ""], "y": NUMBERS}, delimiter=";")
    notes = make(tmp_path).notes
    assert remark in notes[0] if remark else notes == (), notes


def test_numbers_that_begin_with_0_are_categories(tmp_path):
    made = make(tmp_path, {"zip": [f"{i % 20:05d}" for i in range(N)]})
    assert made.spec.columns[0].type == "category" and "start with 0" in made.notes[0]


@pytest.mark.parametrize("content", ["", "x,y\n", "x,y"])
def test_files_without_rows(tmp_path, content):
    (tmp_path / "rows.csv").write_text(content)
    assert "rows.csv: is empty" in fault(tmp_path) or "rows.csv: a header without rows" in fault(tmp_path)


def test_duplicate_names(tmp_path):
    (tmp_path / "rows.csv").write_text("x,y,x\n1,2,3\n")
    assert "rows.csv: has several columns named 'x'" in fault(tmp_path)


def test_several_files_with_columns_in_any_order(tmp_path):
    csv(tmp_path, {"x": NUMBERS, "kind": ["a", "b"] * (N // 2)}, "1.csv")
    path = csv(tmp_path, {"kind": ["a", "b"] * (N // 2), "x": NUMBERS}, "2.csv", delimiter=";")
    (tmp_path / "2.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    made = make(tmp_path, source="csv:*.csv*")
    assert sum(made.rows.values()) == 2 * N and [c.name for c in made.spec.columns] == ["x", "kind"]
    assert make(tmp_path, source="csv:2.csv.gz").spec.name == "2"


def test_files_whose_columns_do_not_agree(tmp_path):
    csv(tmp_path, {"x": NUMBERS, "kind": ["a", "b"] * (N // 2)}, "1.csv")
    csv(tmp_path, {"x": NUMBERS, "sort": ["a", "b"] * (N // 2)}, "2.csv")
    message = fault(tmp_path, source="csv:*.csv")
    assert "2.csv: lacks the columns 'kind' and has the further columns 'sort', compared with" in message
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"x": ["a", "b"]}), tmp_path / "2.parquet")
    message = fault(tmp_path, source="parquet:*.parquet")
    assert "2.parquet: columns of other types than in" in message and "'x' (string, not double)" in message
    pq.write_table(pa.table({"x": pa.nulls(2)}), tmp_path / "0.parquet")
    assert "'x' (string, not double)" in fault(tmp_path, source="parquet:*.parquet")


def test_parquet_tables(tmp_path):
    table = pa.table(
        {
            "x": pa.array(NUMBERS, pa.float32()),
            "count": pa.array(RNG.integers(0, 50, N), pa.int16()),
            "kind": pa.array(["a", "?"] * (N // 2)).dictionary_encode(),
            "other": pa.array(RNG.choice(["a", "b"], N), pa.large_string()),
            "truth": pa.array([True, None, False, False] * (N // 4)),
            "price": pa.array(RNG.integers(100, 999, N)).cast(pa.decimal128(20, 0)),
            "day": pa.array(np.datetime64("1960-01-01") + RNG.integers(0, 999, N)),
            "time": pa.array(np.datetime64("1960-01-01T00:00:00") + RNG.integers(0, 10**8, N)).cast(
                pa.timestamp("s", "Europe/Berlin")
            ),
            "nothing": pa.nulls(N),
            "parts": pa.array([{"a": 1}] * N),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=150)
    made = make(tmp_path, source="parquet:rows.parquet")
    assert {c.name: (c.type, c.arrow_type) for c in made.spec.columns} == {
        "x": ("number", "float"),
        "count": ("integer", "int16"),
        "other": ("category", "string"),
        "truth": ("boolean", "bool"),
        "price": ("number", "double"),
        "day": ("datetime", "date32[day]"),
        "time": ("datetime", "timestamp[ms, tz=Europe/Berlin]"),
    }
    assert [line.partition(":")[0] for line in made.notes] == [
        f"column {name!r} is left out" for name in ("kind", "nothing", "parts")
    ]
    decoded = codec.decode(codes(made)[:20], made.spec.columns, np.full((20, 7), 0.5))
    assert decoded.schema.field("time").type == pa.timestamp("ms", "Europe/Berlin")
    assert decoded.schema.field("x").type == pa.float32()


def test_table_options_have_no_effect_on_tensors(tmp_path):
    pq.write_table(pa.table({"x": [[1, 2]] * N}), tmp_path / "rows.parquet")
    assert "data.options.bins is without effect on tensors" in fault(tmp_path, source="parquet:rows.parquet", bins=9)


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "iris", "diabetes"])
def test_tables_of_scikit_learn(tmp_path, name):
    made = make(tmp_path, source=name)
    assert made.spec.name == name and made.spec.target == "target" and made.notes == ()
    assert column(made, "target").type == ("number" if name == "diabetes" else "category")
    assert sum(made.rows.values()) == {"wine": 178, "breast_cancer": 569, "iris": 150, "diabetes": 442}[name]


def test_an_unavailable_file_is_named_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "adult.parquet"
    assert fault(tmp_path, source="parquet:adult.parquet") == f"{place}: no Parquet file by this name or pattern"
    with pytest.raises(UserError) as caught:
        prepare("parquet:adult.parquet", root=None, out=tmp_path / "out", options=SourceOptions())
    line = f"adult.parquet: no Parquet file by this name or pattern in {tmp_path}; data.root names another folder"
    assert str(caught.value) == line
