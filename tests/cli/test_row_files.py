"""impute, sample and score of files of rows from the command line."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gen_ray.datasets.shards import to_numpy
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.rows import blocks, impute
from gen_ray.engine.inference.rows.results import BlockResult
from tests.cli.test_instances import untrained
from tests.conftest import ROOT, CommandResult
from tests.engine.row_models import CPU, untrained_model, with_missing, write_csv
from tests.tabular_cases import mixed_rows

Run = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    artifact.write(folder / "model", untrained_model(mixed_rows(300)))
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    table = with_missing(mixed_rows(60), 0.2).append_column("note", pa.array(["1.50"] * 60)).drop_columns(["day"])
    return write_csv(tmp_path / "rows.csv", table)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_impute_fills_every_cell_and_keeps_the_known_ones(gen_ray: Run, folder: Path, rows: Path) -> None:
    out, completions = rows.with_name("filled.csv"), rows.with_name("all.parquet")
    words = ("impute", folder / "model", "--data", rows, "--out", out, "-k", 3, "--completions", completions)
    result = gen_ray(*words)
    assert result.code == 0, result.err
    assert "lacks day; all their values are missing" in result.err and "note: not used by the model" in result.err
    assert "values and intervals: from the model's exact distribution of each cell" in result.out
    given, filled = read(rows), read(out)
    assert all(
        after[name] == cell
        for before, after in zip(given, filled, strict=True)
        for name, cell in before.items()
        if cell
    )
    assert all(row[name] for row in filled for name in ("level", "amount", "kind", "day", "member", "label"))
    table = pq.read_table(completions)
    assert table.column("row").to_pylist()[:4] == [0, 0, 0, 1] and len(table) == 3 * 60, "each row lacks day"
    assert sorted(file.name for file in rows.parent.iterdir()) == ["all.parquet", "filled.csv", "rows.csv"]
    content = out.read_bytes()
    assert gen_ray(*words).code == 0 and out.read_bytes() == content


def test_sample_states_how_conditions_are_satisfied(gen_ray: Run, folder: Path, tmp_path: Path) -> None:
    where = ("--where", "amount=10..40", "--where", "kind=b")
    result = gen_ray("sample", folder / "model", "-n", 500, "--out", tmp_path / "rows.parquet", *where)
    assert result.code == 0, result.err
    assert "amount=10..40: drawn before other columns, from its exact distribution" in result.out
    assert (
        "kind=b: known value, kept by the imputer" in result.out and "accepted: 100.0% of 500 candidates" in result.out
    )
    table = pq.read_table(tmp_path / "rows.parquet")
    assert set(table.column("kind").to_pylist()) == {"b"} and set(table.column("amount").to_pylist()) <= {
        10,
        20,
        30,
        40,
    }


def test_score_reports_unusual_rows(gen_ray: Run, folder: Path, rows: Path) -> None:
    result = gen_ray("score", folder / "model", "--data", rows, "--out", rows.with_name("scored.parquet"))
    assert result.code == 0, result.err
    table = pq.read_table(rows.with_name("scored.parquet"))
    assert table.column("note").to_pylist() == ["1.50"] * 60 and {"bits", "most_unusual", "kind_bits"} <= set(
        table.schema.names
    )
    assert "bits per row (elbo-ct-partial)" in result.out and "most unusual: " in result.out


def test_samples_in_a_folder(gen_ray: Run, folder: Path, tmp_path: Path) -> None:
    out = f"{tmp_path}/many/"
    assert gen_ray("sample", folder / "model", "-n", 30, "--out", out).code == 0
    assert sorted(file.name for file in (tmp_path / "many").iterdir()) == ["_SUCCESS", "part-00000.parquet"]
    assert gen_ray("sample", folder / "model", "-n", 20, "--out", out, "--seed", 1).code == 0
    assert len(pq.read_table(tmp_path / "many" / "part-00000.parquet")) == 20, "an earlier result is replaced"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    result = gen_ray("sample", folder / "model", "-n", 30, "--out", f"{tmp_path}/mine/")
    assert result.code == 2 and "holds other files (notes.txt); name a new folder" in result.fault
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_images_are_sampled_into_a_folder_that_prepare_reads(gen_ray: Run, tmp_path: Path) -> None:
    model = untrained(tmp_path, tmp_path / "model")
    result = gen_ray("sample", model, "-n", 40, "--out", f"{tmp_path}/digits/")
    assert result.code == 0, result.err
    result = gen_ray("prepare", f"parquet:{tmp_path}/digits/*.parquet", "--out", tmp_path / "prepared")
    assert result.code == 0 and "(1, 8, 8)" in result.out


def test_images_of_a_folder_are_completed_and_scored(gen_ray: Run, tmp_path: Path) -> None:
    model, mask = untrained(tmp_path, tmp_path / "model"), np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert gen_ray("sample", model, "-n", 40, "--out", f"{tmp_path}/digits/").code == 0
    words = ("impute", model, "--data", f"{tmp_path}/digits/", "--mask", tmp_path / "mask.png", "-k", 2)
    result = gen_ray(*words, "--out", f"{tmp_path}/made/")
    assert result.code == 0, result.err
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["_SUCCESS", "part-00000.parquet"]
    made, given = (pq.read_table(tmp_path / name / "part-00000.parquet") for name in ("made", "digits"))
    assert (to_numpy(made)[:, :, :4] == np.repeat(to_numpy(given), 2, 0)[:, :, :4]).all() and len(made) == 80
    result = gen_ray("score", model, "--data", f"{tmp_path}/made/", "--out", tmp_path / "scored.csv")
    assert result.code == 0 and "bits/dim (" in result.out, result.err
    assert [row["name"] for row in read(tmp_path / "scored.csv")][:2] == [
        "part-00000.parquet#0",
        "part-00000.parquet#1",
    ]
    faults = {
        "nothing is missing": ("impute", model, "--data", f"{tmp_path}/digits/"),
        "--fill: needs a model of tables": (*words, "--fill", "mean"),
        "known: .parquet": (*words, "--out", tmp_path / "x.csv"),
        "no image files": ("score", model, "--data", f"{tmp_path}/none/"),
    }
    (tmp_path / "none").mkdir()
    for fault, mistake in faults.items():
        result = gen_ray(*mistake)
        assert result.code == 2 and fault in result.fault, fault


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("impute", "--out", "x.csv"), "--data: rows holds rows of a table; give a .csv or .parquet file of rows"),
        (("impute", "--data", "ROWS", "--out", "x.png"), "--out must be a folder (DIR/), or end in"),
        (("impute", "--data", "ROWS", "--out", "d/", "--completions", "c.parquet"), "--completions: needs one file"),
        (("impute", "--data", "ROWS", "--fill", "best"), "--fill must be"),
        (("impute", "--data", "ROWS", "--intervals", "90"), "must be none, or a number between 0 and 1 such as 0.9"),
        (("impute", "--data", "ROWS", "--out", "ROWS"), "is the input itself; name another file"),
        (("impute", "--data", "ROWS", "--out", "folder.csv"), "--out=folder.csv: is not a regular file"),
        (("impute", "--data", "ROWS", "--completions", "pipe.parquet"), "--completions=pipe.parquet: is not a regular"),
        (("impute", "--data", "ROWS", "--completions", "a.parquet", "--out", "a.parquet"), "is the same file as --out"),
        (("impute", "--data", "rows.parquet", "--completions", "rows.parquet"), "is the input itself"),
        (("impute", "--data", "pipe.parquet"), "pipe.parquet: is not a regular file; it is read several times"),
        (("score", "--data", "folder.csv"), "folder.csv: is not a regular file"),
        (("sample", "--out", "pipe.parquet"), "--out=pipe.parquet: is not a regular file"),
        (("impute", "--data", "BAD"), "row 1, column 'amount': 'many' is not a whole number of type int64"),
        (("impute", "--data", "OTHER"), "has none of the model's columns"),
        (("impute", "--data", "no.csv"), "no.csv"),
        (("score", "--data", "ROWS", "--repeats", "9"), "--repeats: does not apply to a file of rows"),
        (("sample", "--where", "knd=b"), "column 'knd': did you mean 'kind'?"),
        (("sample", "--where", "kind=z"), "column 'kind' does not have the value 'z'"),
        (("sample", "--out", "x.png"), "--out must be a folder (DIR/), or end in"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    gen_ray: Run, folder: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], fault: str
) -> None:
    monkeypatch.chdir(rows.parent)
    (rows.parent / "bad.csv").write_text("amount\n1\nmany\n")
    (rows.parent / "other.csv").write_text("a,b\n1,2\n")
    (rows.parent / "folder.csv").mkdir()
    os.mkfifo(rows.parent / "pipe.parquet")
    pq.write_table(pa.table({"amount": [1, None]}), rows.parent / "rows.parquet")
    before = set(rows.parent.iterdir())
    names = {"ROWS": "rows.csv", "BAD": "bad.csv", "OTHER": "other.csv"}
    verb, *options = (names.get(word, word) for word in words)
    result = gen_ray(verb, folder / "model", *options)
    assert result.code == 2 and fault in result.fault, result.err
    assert set(rows.parent.iterdir()) == before


def test_a_file_that_changes_during_the_command_has_no_output(
    gen_ray: Run, folder: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = impute.ImputeTask.run

    def changing(self: impute.ImputeTask, *arguments: Any) -> BlockResult:
        rows.write_bytes(rows.read_bytes() + b"1,,,,,\n")
        return run(self, *arguments)

    monkeypatch.setattr(impute.ImputeTask, "run", changing)
    words = ("impute", folder / "model", "--data", rows, "--out", rows.with_name("filled.csv"))
    result = gen_ray(*words)
    assert result.code == 1 and "rows.csv: was changed during the command" in result.err
    assert not rows.with_name("filled.csv").exists()
    monkeypatch.setattr(impute.ImputeTask, "run", run)
    assert gen_ray(*words).code == 0 and len(read(rows.with_name("filled.csv"))) == 61


def test_default_outputs_differ_for_names_with_dots(gen_ray: Run, folder: Path, rows: Path) -> None:
    for month in ("2024.01", "2024.02"):
        rows.with_name(f"sales.{month}.csv").write_text("kind,amount\na,\n")
        assert gen_ray("impute", folder / "model", "--data", rows.with_name(f"sales.{month}.csv")).code == 0
        assert rows.with_name(f"sales.{month}-filled.csv").exists()


def test_many_completions_take_smaller_blocks() -> None:
    rows = blocks.rows_per_block(10**6, cells=15 * 100_000)
    assert rows >= 1 and rows * 15 * 100_000 <= blocks.CELLS
    assert blocks.rows_per_block(10**6, cells=15 * 20) == blocks.BLOCK_ROWS
    assert blocks.rows_per_block(10**6, cells=10**9) == 1


def test_a_model_of_images_refuses_a_file_of_rows(gen_ray: Run, rows: Path, tmp_path: Path) -> None:
    model = untrained(tmp_path, tmp_path / "model")
    result = gen_ray("impute", model, "--data", rows)
    assert result.code == 2 and "rows.csv: digits holds image, which is read from a .parquet file or a" in result.fault
    result = gen_ray("sample", model, "--where", "a=1")
    assert result.code == 2 and "--where: needs a model of tables" in result.fault


def test_a_killed_command_continues(
    folder: Path, tmp_path: Path, gen_ray: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the death of the process in the third block, the repeated command computes the others only."""
    file = write_csv(tmp_path / "rows.csv", with_missing(mixed_rows(500), 0.2))
    out, code = tmp_path / "filled.csv", (
        "import os, sys\n"
        "from gen_ray.engine.inference.rows import blocks, impute\n"
        "from pipelines import cli\n"
        "blocks.BLOCK_ROWS, run = 64, impute.ImputeTask.run\n"
        "def killed(self, model, device, block):\n"
        "    if block.index == 2: os.kill(os.getpid(), 9)\n"
        "    return run(self, model, device, block)\n"
        "impute.ImputeTask.run = killed\n"
        "cli.main()\n"
    )  # fmt: skip
    words = ("impute", folder / "model", "--data", file, "--out", out)
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, env=os.environ, capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL and not out.exists(), ended.stderr
    monkeypatch.setattr("gen_ray.engine.inference.rows.blocks.BLOCK_ROWS", 64)
    computed, run = list[int](), impute.ImputeTask.run
    monkeypatch.setattr(
        impute.ImputeTask,
        "run",
        lambda self, model, device, block: computed.append(block.index) or run(self, model, device, block),
    )
    result = gen_ray(*words)
    assert result.code == 0 and "continues: 2 of 8 blocks are done" in result.err, result.err
    assert computed == [2, 3, 4, 5, 6, 7]
    content = out.read_bytes()
    assert gen_ray(*words[:-1], tmp_path / "again.csv").code == 0
    assert (tmp_path / "again.csv").read_bytes() == content and len(read(out)) == 500


@pytest.mark.parametrize(("seconds", "cluster", "here"), [(3600.0, "", 3), (0.0, "", 1), (3600.0, "127.0.0.1:1", 0)])
def test_only_long_work_starts_ray(
    gen_ray: Run,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    cluster: str,
    here: int,
) -> None:
    """By default the command's process computes until the rest is long; a cluster that exists is used at once."""
    pytest.importorskip("ray")
    from gen_ray.cluster.inference import stream
    from gen_ray.engine.inference.rows.run import run_here

    skipped = []

    def on_cluster(model: Any, task: Any, blocks: Any, skip: frozenset[int], workers: int | None) -> Any:
        skipped.append(len(skip))
        return run_here(model, task, blocks, skip, CPU)

    monkeypatch.setattr(stream, "run_on_cluster", on_cluster)
    monkeypatch.setattr("gen_ray.engine.inference.rows.blocks.BLOCK_ROWS", 64)
    monkeypatch.setattr("pipelines.row_jobs.RAY_SECONDS", seconds)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster)
    words = ("sample", folder / "model", "-n", 150, "--out")
    assert gen_ray(*words, tmp_path / "rows.csv").code == 0
    assert skipped == ([here] if here < 3 else [])
    assert gen_ray(*words, tmp_path / "0.csv", "--workers", 0).code == 0 and len(skipped) == (here < 3)
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
