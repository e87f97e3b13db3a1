"""Samples in files, and conditions on them compared with the exact conditional distribution of a known joint."""

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gen_ray.datasets.shards import to_numpy
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.rows.blocks import DrawnBlocks
from gen_ray.engine.inference.rows.conditional import ENOUGH, ConditionalDraws
from gen_ray.engine.inference.rows.conditions import parse_conditions
from gen_ray.engine.inference.rows.results import RowTask
from gen_ray.engine.inference.rows.run import run_here
from gen_ray.engine.inference.rows.sample import SampleTask, describe, plan
from gen_ray.errors import RunError, UserError
from tests import tabular_joint
from tests.engine import tiny_models
from tests.engine.row_models import CPU, output, perfect_model, untrained_model
from tests.tabular_cases import mixed_rows

N = 5000
LETTERS = {0: ["a"], 1: ["b"], 2: ["x", "y"]}
NUMBERS = {0: [0], 1: [1], 2: [2, 3, 4], 3: [5, 9]}


def exact() -> dict[tuple[Any, ...], float]:
    """Return the probability of every row of values."""
    found = {}
    for row, p in zip(tabular_joint.ROWS.tolist(), tabular_joint.P.tolist(), strict=True):
        numbers, letters = NUMBERS[row[0]], LETTERS[row[2]]
        for number in numbers:
            for letter in letters:
                found[number, bool(row[1]), letter] = p / len(numbers) / len(letters)
    return found


def sampled(kernel: str, *where: str, n: int = N) -> tuple[pa.Table, SampleTask, int]:
    model = perfect_model(kernel)
    task = plan(SampleTask(suffix=".parquet", seed=3, conditions=parse_conditions(where, model.spec)), model, CPU)
    results = list(run_here(model, task, DrawnBlocks(n, 4096), frozenset(), CPU))
    tables = [pq.read_table(io.BytesIO(result.files["rows"].content)) for result in results]
    return pa.concat_tables(tables), task, sum(result.statistics["candidates"] for result in results)


CONDITIONS = {
    "number=1..4": lambda number, truth, letter: 1 <= number <= 4,
    "number=3..": lambda number, truth, letter: number >= 3,
    "number=..4 letter=a|x": lambda number, truth, letter: number <= 4 and letter in "ax",
    "truth=true number=2..5 letter=b|y": lambda number, truth, letter: truth and 2 <= number <= 5 and letter in "by",
    "number=0|9": lambda number, truth, letter: number in (0, 9),
    "letter=b truth=false": lambda number, truth, letter: letter == "b" and not truth,
}


@pytest.mark.parametrize("kernel", ["random_order", "absorbing", "order"])
@pytest.mark.parametrize("where", CONDITIONS)
def test_rows_under_conditions_follow_the_exact_conditional(kernel: str, where: str) -> None:
    table, task, candidates = sampled(kernel, *where.split())
    allowed = {row: p for row, p in exact().items() if CONDITIONS[where](*row)}
    total = sum(allowed.values())
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert len(rows) == N and set(rows) <= set(allowed)
    counts = {row: rows.count(row) / N for row in allowed}
    assert max(abs(counts[row] - p / total) for row, p in allowed.items()) < 4.5 * (0.25 / N) ** 0.5
    assert len(describe(task, perfect_model(kernel))) == len(where.split())
    if kernel == "order" and "number=3" in where:
        assert candidates == pytest.approx(N / total, rel=0.1), "whole rows are rejected"
    if kernel != "order" and len(where.split()) == 1:
        assert candidates == N, "the first column is never rejected"


def test_a_value_inside_an_interval_is_kept_as_given() -> None:
    """The code of 7 stands for 5 and 9: the row has the value 7, and the other columns those given its code."""
    table, task, _ = sampled("random_order", "number=7")
    assert set(table.column("number").to_pylist()) == {7}
    share = np.array([p for row, p in exact().items() if row[0] == 5 and row[1]]).sum() * 2
    assert table.column("truth").to_pylist().count(True) / N == pytest.approx(
        share / float(tabular_joint.marginal(0)[3]), abs=0.03
    )
    assert describe(task, perfect_model()) == ["number=7: known value, kept by the imputer"]


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("numbr=1", "did you mean 'number'"),
        ("letter=z", "column 'letter' does not have the value 'z', known: a, b, x, y"),
        ("number=6..8", "no training value of 'number' is in this range; its values are between 0 and 9"),
        ("number=one", "column 'number': 'one' is not a whole number of type int64"),
        ("number=1|7", "7 is not among the stored values of 'number'; give one value, or a range LOW..HIGH"),
        ("number=4..2", "the lower end 4 of the range is above the upper end 2"),
        ("number=..", "the range has neither a lower nor an upper end"),
        ("number", "must be NAME=VALUE, NAME=LOW..HIGH or NAME=VALUE|VALUE"),
    ],
)
def test_a_condition_that_cannot_hold_is_one_line(where: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_conditions([where], tabular_joint.spec())
    assert fault in str(caught.value) and f"`where={where}`" in str(caught.value) and "\n" not in str(caught.value)


def test_dates_and_categories_with_signs_of_the_syntax() -> None:
    values = pa.table({"kind": ["a|b", "1..2", "c"] * 40, "day": pa.array(range(120), pa.timestamp("s"))})
    spec = untrained_model(values).spec
    conditions = parse_conditions(["kind=a|b", "day=1970-01-01 00:00:30..1970-01-01T00:01:00"], spec)
    assert conditions.known[0][1].to_pylist() == ["a|b"]
    codes = np.flatnonzero(conditions.allowed[1].counts)
    drawn = spec.columns[1].decode(
        np.repeat(codes, 50),
        conditions.allowed[1].uniforms(np.repeat(codes, 50), np.tile(np.arange(50) / 50, len(codes))),
    )
    assert set(drawn.cast(pa.int64()).to_pylist()) <= set(range(30, 61))


def test_a_time_of_a_condition_is_in_the_format_of_the_column_or_in_iso_8601() -> None:
    [day] = untrained_model(pa.table({"day": pa.array(range(120), pa.timestamp("s"))})).spec.columns
    columns = (day.model_copy(update={"format": "%d/%m/%Y"}),)
    spec = DataSpec(name="days", kind="table", shape=(1,), levels=120, columns=columns)
    either = [parse_conditions([f"day={text}"], spec).known[0] for text in ("01/01/1970", "1970-01-01")]
    assert either[0] == either[1]


def test_names_with_signs_of_the_syntax() -> None:
    names = {"a": [1, 2], "a=b": [3, 4], " c.d ": [5, 6], 'e"\n': [7, 8]}
    spec = untrained_model(pa.table({name: pa.array(some * 40) for name, some in names.items()})).spec
    conditions = parse_conditions(["a=b=3", "a=2", " c.d =5..6", 'e"\n=7'], spec)
    assert {d: value.to_pylist() for d, (_, value) in conditions.known.items()} == {0: [2], 1: [3], 3: [7]}
    assert conditions.allowed[2].counts.all()


def test_a_hopeless_condition_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of accepted candidates is known long before each row has had all attempts."""
    attempts = []

    def rejected(self: ConditionalDraws, model: Any, rows: np.ndarray, start: np.ndarray, *more: Any) -> Any:
        attempts.append(len(rows))
        return start, np.zeros(len(rows), bool)

    monkeypatch.setattr(ConditionalDraws, "_draw_all", rejected)
    with pytest.raises(RunError, match="0 of the rows satisfy this, too few to find them"):
        sampled("order", "number=9..", n=4096)
    assert sum(attempts) < ENOUGH + 4096


def test_a_condition_that_is_too_rare_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_ray.engine.inference.rows.conditional.MOST_ATTEMPTS", 3)
    with pytest.raises(RunError, match=r"number=9.*too few to find them; use wider conditions"):
        sampled("order", "number=9..")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_row_i_is_a_function_of_the_seed_and_i(suffix: str) -> None:
    """Any division into blocks whose sizes are a multiple of a batch gives the same rows."""
    model = untrained_model(mixed_rows(300))
    task: RowTask = SampleTask(suffix=suffix, seed=1)

    def rows(blocks: DrawnBlocks, task: RowTask = task) -> list[Any]:
        if suffix == ".parquet":
            return [row for part in output(model, task, blocks) for row in pq.read_table(io.BytesIO(part)).to_pylist()]
        return [row for part in output(model, task, blocks) for row in csv.DictReader(io.StringIO(part.decode()))]

    whole = rows(DrawnBlocks(5000, 5000))
    assert rows(DrawnBlocks(5000, 2048)) == whole
    assert rows(DrawnBlocks(300, 300), replace(task, seed=2)) != whole[:300]
    assert all(all(value not in ("", None) for value in row.values()) for row in whole)


def test_images_are_written_in_the_form_that_prepare_reads() -> None:
    model = tiny_models.model("vae")
    [first, second] = output(model, SampleTask(suffix=".parquet", seed=0), DrawnBlocks(6, 4))
    table = pq.read_table(io.BytesIO(second))
    assert table.column("row").to_pylist() == [4, 5]
    x = np.concatenate([to_numpy(pq.read_table(io.BytesIO(part))) for part in (first, second)])
    from gen_ray.engine.inference.generate import generate

    expected = generate(model.net, model.experiment.chain(model.family), 6, seed=0, device=CPU)
    assert torch.equal(torch.from_numpy(x), expected)
