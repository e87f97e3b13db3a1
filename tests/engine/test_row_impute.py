"""Imputation of files: known cells do not change, and filled cells follow the exact conditional distributions."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_ray.engine.inference.rows.blocks import inspect
from gen_ray.engine.inference.rows.impute import COMPLETIONS, ImputeTask
from gen_ray.engine.inference.rows.score import ExpectedBits, ScoreTask
from gen_ray.errors import UserError
from tests import tabular_joint
from tests.engine.row_models import output, perfect_model, untrained_model, with_missing, write_csv
from tests.tabular_cases import mixed_rows

DEFAULTS: dict[str, Any] = {
    "suffix": ".csv", "k": 20, "fill": "median", "coverage": 0.9, "with_completions": False, "exact": True, "seed": 0,
}  # fmt: skip
SCORING: dict[str, Any] = {"suffix": ".csv", "effort": 3, "seed": 0, "expected": ExpectedBits(0.0, None)}


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("fill", ["median", "mean", "mode", "draw"])
def test_known_cells_keep_their_bytes(tmp_path: Path, fill: str, exact: bool) -> None:
    model = perfect_model()
    lines = ["id;letter;number;truth;note", ' 01 ;a;007; TRUE ;"x;""y"', "2;?;1;false;", "3;zz;;NA;1.50", "4;;;;é"]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    assert source.missing == (2, 2, 2) and source.rows == 4
    task = ImputeTask(source=source, **{**DEFAULTS, "fill": fill, "exact": exact})
    [content] = output(model, task, source)
    given = list(csv.reader((tmp_path / "rows.csv").open(), delimiter=";"))
    found = list(csv.reader(io.StringIO(content.decode()), delimiter=";"))
    assert found[0] == [*given[0], "number_low", "number_high", "truth_probability", "letter_probability"]
    missing = {(2, 1), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3)}
    for i, row in enumerate(given):
        for j, cell in enumerate(row):
            if (i, j) in missing:
                assert found[i][j] not in ("", "?", "NA")
            else:
                assert found[i][j] == cell
    assert found[1][5:] == ["", "", "", ""], "known cells are certain"
    again = output(model, task, source)
    assert again == [content]


def test_an_absent_column_is_imputed_where_an_empty_cell_is_the_category_of_missing_values(tmp_path: Path) -> None:
    model, columns = perfect_model(), tabular_joint.with_missing_letters().columns
    (tmp_path / "empty.csv").write_text("number,truth,letter\n1,true,\n")
    (tmp_path / "absent.csv").write_text("number,truth\n1,true\n")
    empty, absent = (inspect(tmp_path / name, columns) for name in ("empty.csv", "absent.csv"))
    assert (empty.missing, absent.missing) == ((0, 0, 0), (0, 0, 1))
    [row] = rows_of(output(model, ImputeTask(source=absent, **DEFAULTS), absent)[0])
    p = tabular_joint.P[(tabular_joint.ROWS[:, 0] == 1) & (tabular_joint.ROWS[:, 1] == 1)]
    assert float(row["letter_probability"]) == pytest.approx(float(p.max() / p.sum()), abs=1e-6)
    scored = [rows_of(output(model, ScoreTask(source=file, **SCORING), file)[0])[0] for file in (empty, absent)]
    assert float(scored[0]["bits"]) > float(scored[1]["bits"])


def test_known_cells_keep_their_quotation_marks(tmp_path: Path) -> None:
    """Also where they do not need them, and none are added to cells with a mark inside."""
    model = perfect_model()
    lines = ['"a",7,true,"plain"', '"b",,"TRUE",5" by 4"', '"?","3",,""', '"a","0",false,"x,""y"""']
    (tmp_path / "rows.csv").write_bytes("\r\n".join(['letter,"number",truth,note', *lines]).encode())
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    [impute] = output(model, ImputeTask(source=source, **{**DEFAULTS, "coverage": None}), source)
    found = impute.decode().splitlines()[1:]
    assert [found[0], found[3]] == [lines[0], lines[3]]
    assert re.fullmatch(r'"b",\d,"TRUE",5" by 4"', found[1])
    assert re.fullmatch(r'[abxy],"3",(true|false),""', found[2])
    [scored] = output(model, ScoreTask(source=source, **SCORING), source)
    assert [line.rpartition(",")[0] for line in scored.decode().splitlines()[1:]] == lines


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parquet_cells_keep_their_types_and_other_columns_pass(tmp_path: Path, suffix: str) -> None:
    table = mixed_rows(200).append_column("tags", pa.array([[1, 2]] * 200)).drop_columns(["kind"])
    model = untrained_model(mixed_rows(200))
    given = with_missing(table.drop_columns(["tags"]), 0.3)
    if suffix == ".parquet":
        given = given.append_column("tags", table.column("tags"))
    pq.write_table(given, tmp_path / "rows.parquet")
    source = inspect(tmp_path / "rows.parquet", model.spec.columns)
    assert source.absent == ("kind",) and source.missing[2] == 200
    [content] = output(model, ImputeTask(source=source, **{**DEFAULTS, "suffix": suffix}), source)
    if suffix == ".csv":
        assert all(all(row[name] for name in table.schema.names if name != "tags") for row in rows_of(content))
        return
    found = pq.read_table(io.BytesIO(content))
    for name in given.schema.names:
        filled, before = found.column(name), given.column(name)
        assert filled.type == before.type and not filled.null_count
        assert filled.filter(before.is_valid()).equals(before.filter(before.is_valid()))
    assert found.column("kind").null_count == 0 and found.column("kind_probability").null_count == 0
    level = found.select(["level_low", "level", "level_high"]).filter(given.column("level").is_null())
    assert all(low <= value <= high for low, value, high in zip(*(c.to_pylist() for c in level.columns), strict=True))


def test_completions_follow_the_joint_of_all_missing_cells(tmp_path: Path) -> None:
    """The completions of several columns of a row are drawn jointly; the exact statistics agree with them."""
    model, k = perfect_model(), 4000
    (tmp_path / "rows.csv").write_text("number,truth,letter\n,true,\n0,,a\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    task = ImputeTask(source=source, **{**DEFAULTS, "with_completions": True, "k": k})
    [content] = output(model, task, source, COMPLETIONS)
    table = pq.read_table(io.BytesIO(content))
    assert table.column("completion").to_pylist() == [*range(k)] * 2
    first = table.slice(0, k)
    assert set(first.column("truth").to_pylist()) == {True}
    assert set(first.column("number").to_pylist()) <= {0, 1, 2, 3, 4, 5, 9}
    codes = np.stack([column.encode(first.column(column.name).combine_chunks()) for column in model.spec.columns], 1)
    joint = tabular_joint.P.numpy() * (tabular_joint.ROWS[:, 1] == 1).numpy()
    joint /= joint.sum()
    counts = (codes[:, None] == tabular_joint.ROWS.numpy()).all(2).mean(0)
    assert np.abs(counts - joint).max() < 5 * (0.25 / k) ** 0.5
    [row, _] = rows_of(output(model, task, source)[0])
    assert abs(float(row["letter_probability"]) - np.bincount(codes[:, 2]).max() / k) < 0.05


def test_exact_quantiles_invert_the_distribution_function(tmp_path: Path) -> None:
    """With the marginal p of one column: mean Σ p·mean, mode of p, and quantiles that leave out 5 % on either side."""
    model = perfect_model()
    (tmp_path / "rows.csv").write_text("number,truth,letter\n,true,b\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    p = tabular_joint.P.numpy() * ((tabular_joint.ROWS[:, 1] == 1) & (tabular_joint.ROWS[:, 2] == 1)).numpy()
    p = np.array([p[tabular_joint.ROWS[:, 0].numpy() == code].sum() for code in range(4)]) / p.sum()
    values = {0: p[0], 1: p[1], 2: p[2] / 3, 3: p[2] / 3, 4: p[2] / 3, 5: p[3] / 2, 9: p[3] / 2}
    total = np.cumsum(list(values.values()))
    expected = {level: list(values)[int((total < level).sum())] for level in (0.05, 0.5, 0.95)}
    [row] = rows_of(output(model, ImputeTask(source=source, **DEFAULTS), source)[0])
    assert (int(row["number_low"]), int(row["number"]), int(row["number_high"])) == tuple(expected.values())
    [row] = rows_of(output(model, ImputeTask(source=source, **{**DEFAULTS, "fill": "mean"}), source)[0])
    assert int(row["number"]) == round(float(p @ [0, 1, 3, 7]))


def test_intervals_of_draws_cover_as_stated() -> None:
    """k draws and a new value of the same distribution: the value is inside with the stated probability."""
    from gen_ray.engine.inference.rows.statistics import of_draws

    column = untrained_model(mixed_rows(3000)).spec.columns[0]
    rng = np.random.default_rng(0)
    codes = rng.choice(column.cardinality, (20_000, 21))
    u = rng.random(codes.shape)
    cells = of_draws(column, codes[:, :20], u[:, :20], "mean", 0.9)
    new = column.decode(codes[:, 20], u[:, 20]).to_numpy()
    inside = (cells.low.to_numpy() <= new) & (new <= cells.high.to_numpy())
    assert abs(inside.mean() - 0.9) < 0.01


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    model = perfect_model()
    (tmp_path / "rows.csv").write_text("number,number_low\n,1\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    with pytest.raises(UserError, match=r"has a column 'number_low' already; .*`intervals=none`"):
        ImputeTask(source=source, **DEFAULTS).extra_names()


def test_a_file_without_rows_keeps_its_header(tmp_path: Path) -> None:
    model = perfect_model()
    (tmp_path / "rows.csv").write_text("number,note\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    assert output(model, ImputeTask(source=source, **DEFAULTS), source) == [b"number,note,truth,letter\n"]


def test_blocks_do_not_change_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a file and their order do not depend on how the reader divides it; every block is read once."""
    model, given = untrained_model(mixed_rows(500)), with_missing(mixed_rows(500), 0.2)
    file = write_csv(tmp_path / "rows.csv", given)
    whole = inspect(file, model.spec.columns)
    task = ImputeTask(source=whole, **{**DEFAULTS, "coverage": None})
    [expected] = output(model, task, whole)
    monkeypatch.setattr("gen_ray.engine.inference.rows.blocks.BLOCK_ROWS", 64)
    parts = output(model, task, whole)
    assert len(parts) == len(whole) == 8
    header = expected.index(b"\n") + 1
    assert parts[0] + b"".join(part[header:] for part in parts[1:]) == expected
    assert [block.index for block in whole.read({0, 3})] == [1, 2, 4, 5, 6, 7]
