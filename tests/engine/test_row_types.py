"""Files whose columns have other types than the model's: filled cells fit, or one line says so before the work."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_ray.engine.inference.rows.blocks import inspect
from gen_ray.engine.inference.rows.impute import ImputeTask
from gen_ray.engine.inference.rows.run import run_here
from gen_ray.engine.inference.rows.score import ExpectedBits, ScoreTask, summary
from gen_ray.engine.inference.rows.texts import as_texts
from gen_ray.errors import UserError
from tests.engine.row_models import CPU, output, untrained_model
from tests.tabular_cases import mixed_rows

TABLE = mixed_rows(300)
MODEL = untrained_model(TABLE)
ROWS = pa.table(
    {"level": [1.5, None], "amount": [None, 10], "kind": ["a", None], "member": [None, True], "label": ["yes", None]}
)


def filled(folder: Path, rows: pa.Table, suffix: str) -> pa.Table | bytes:
    """Return the filled rows of a Parquet file. Raise UserError before the work starts."""
    pq.write_table(rows, folder / "rows.parquet")
    task = ImputeTask(
        source=inspect(folder / "rows.parquet", MODEL.spec.columns), suffix=suffix, k=2, fill="mean", coverage=None,
        with_completions=False, exact=True, seed=0,
    )  # fmt: skip
    task.check()
    [content] = output(MODEL, task, task.source)
    return pq.read_table(pa.BufferReader(content)) if suffix == ".parquet" else content


def replaced(name: str, cells: pa.Array) -> pa.Table:
    return ROWS.set_column(ROWS.schema.names.index(name), name, cells)


@pytest.mark.parametrize("name", ["level", "amount", "kind", "member"])
def test_a_column_without_any_type_gets_that_of_the_model(tmp_path: Path, name: str) -> None:
    out = filled(tmp_path, replaced(name, pa.nulls(2)), ".parquet")
    assert out.column(name).null_count == 0 and out.schema.field(name).type == TABLE.schema.field(name).type


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("level", pa.array([1, None], pa.int8())),
        ("level", pa.array([1, None], pa.float16())),
        ("level", pa.array([Decimal("1.10"), None], pa.decimal128(9, 2))),
        ("level", pa.array(["1.5", None], pa.large_string())),
        ("amount", pa.array([None, 10.0])),
        ("amount", pa.array([None, 10], pa.uint16())),
        ("kind", pa.array(["a", None], pa.string_view())),
        ("kind", pa.array(["a", None]).dictionary_encode()),
        ("member", pa.array([None, 1])),
    ],
)
def test_filled_cells_are_rounded_to_the_type_of_the_file(tmp_path: Path, name: str, cells: pa.Array) -> None:
    exact = filled(tmp_path, ROWS, ".parquet").column(name)
    out = filled(tmp_path, replaced(name, cells), ".parquet").column(name)
    missing, known = (1, 0) if cells[0].is_valid else (0, 1)
    assert out[known].as_py() == cells[known].as_py()
    expected, value = exact[missing].as_py(), out[missing].as_py()
    assert value == expected or abs(float(value) - float(expected)) <= 0.5


@pytest.mark.parametrize(
    ("name", "cells", "fault"),
    [
        ("amount", pa.array([None, False]), "column 'amount' is bool, which cannot hold the values"),
        ("level", pa.array([Decimal("1.10"), None], pa.decimal128(3, 2)), "convert it to double, or write .csv"),
        ("kind", pa.array([1, None]), "column 'kind' is int64, which cannot hold the values that are filled in"),
        ("member", pa.array([2, None]), "row 0, column 'member': 2 is not true or false"),
        ("level", pa.array([date(2000, 1, 1), None]), "column 'level' is date32[day], not double"),
    ],
)
def test_types_that_cannot_hold_the_values(tmp_path: Path, name: str, cells: pa.Array, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        filled(tmp_path, replaced(name, cells), ".parquet")
    assert fault in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([[1], None]),
        pa.array([b"\xff", None]),
        pa.array([2**62, None], pa.timestamp("us")),
        pa.array([1, None], pa.timestamp("us", "Foo/Bar")),
    ],
)
def test_values_without_a_text_are_kept_in_parquet_and_refused_in_csv(tmp_path: Path, cells: pa.Array) -> None:
    rows = ROWS.append_column("more", cells)
    assert filled(tmp_path, rows, ".parquet").column("more").combine_chunks().equals(cells)
    with pytest.raises(UserError, match="that CSV cannot hold; write"):
        filled(tmp_path, rows, ".csv")


def test_a_parquet_file_without_rows_keeps_its_types(tmp_path: Path) -> None:
    assert filled(tmp_path, ROWS.slice(0, 0), ".parquet").schema.types[:5] == ROWS.schema.types


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("content", ["level,kind\n", "level,kind\n,\n,a\n"])
def test_scores_of_no_row_and_of_rows_without_values(tmp_path: Path, content: str, suffix: str) -> None:
    """A missing cell is never the most unusual one, although its bits are the farthest below those expected."""
    (tmp_path / "rows.csv").write_text(content)
    blocks = inspect(tmp_path / "rows.csv", MODEL.spec.columns)
    expected = ExpectedBits(50.0, tuple(np.linspace(0.1, 90, len(MODEL.spec.columns))))
    task = ScoreTask(source=blocks, suffix=suffix, effort=1, seed=0, expected=expected)
    task.check()
    results = list(run_here(MODEL, task, blocks, frozenset(), CPU))
    lines = summary([result.statistics for result in results], expected)
    assert len(lines) == (3 if blocks.rows else 0)
    if lines:
        assert "most unusual: kind" in lines[1] and lines[2] == "row 0: 0.00 bits"


def test_times_in_csv_are_iso_8601_and_read_back() -> None:
    seconds = [0, 1_500_000_000, None]
    assert as_texts(pa.array(seconds, pa.timestamp("s")), "t").to_pylist() == [
        "1970-01-01T00:00:00",
        "2017-07-14T02:40:00",
        "",
    ]
    zoned = as_texts(pa.array(seconds, pa.timestamp("us", "UTC")), "t")
    assert zoned[0].as_py() == "1970-01-01T00:00:00Z"
    assert as_texts(pa.array([0, None], pa.date32()), "d").to_pylist() == ["1970-01-01", ""]
