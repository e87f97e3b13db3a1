"""impute and score of CSV files that are written differently from the training data."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_ray.datasets.source import SourceOptions
from gen_ray.engine.inference import artifact
from tests.cli.test_instances import untrained
from tests.conftest import CommandResult
from tests.engine.row_models import untrained_model
from tests.tabular_cases import mixed_rows

Run = Callable[..., CommandResult]


def write_model(folder: Path, **options: Any) -> Path:
    """Write a model whose training data were read with options."""
    model = untrained_model(mixed_rows(100))
    data = model.experiment.data.model_copy(update={"options": SourceOptions(**options)})
    changed = model.experiment.model_copy(update={"data": data})
    artifact.write(folder, artifact.Model(experiment=changed, family=model.family, net=model.net, meta=model.meta))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("plain") / "model")


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.csv.gz"])
def test_a_file_is_read_with_the_given_delimiter_and_encoding(
    gen_ray: Run, folder: Path, tmp_path: Path, name: str
) -> None:
    """The colon is not detected, and é is not UTF-8; the output keeps the delimiter and the known cells."""
    file, content = tmp_path / name, "note:kind:amount\ncafé:a:\ncafé:b:10\n".encode("latin-1")
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    words = ("--data", file, "--delimiter", ":", "--encoding", "latin-1", "--out")
    result = gen_ray("impute", folder, *words, tmp_path / "filled.csv", "--intervals", "none")
    assert result.code == 0, result.err
    header, *lines = (tmp_path / "filled.csv").read_text().splitlines()
    assert header.startswith("note:kind:amount:") and [line[:7] for line in lines] == ["café:a:", "café:b:"]
    assert lines[1].startswith("café:b:10:")
    result = gen_ray("score", folder, *words, tmp_path / "scored.csv")
    assert result.code == 0, result.err
    assert (tmp_path / "scored.csv").read_text().startswith("note:kind:amount:bits:most_unusual")
    again = gen_ray("impute", folder, *words[:4], "--out", tmp_path / "x.csv")
    assert again.code == 2 and "wrong encoding" in again.fault and "e.g. --encoding latin-1" in again.fault


def test_a_file_is_read_like_the_training_data_unless_it_is_evidently_different(gen_ray: Run, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", delimiter=":", encoding="latin-1")
    contents = {
        "same.csv": "note:kind:amount\ncafé:a:\n".encode("latin-1"),
        "ascii.csv": b"note:kind:amount\ncafe:a:\n",
        "utf8.csv": "note,kind,amount\ncafé,a,\n".encode(),
        "mixed.csv": "note:kind:amount\ncafé:a:\n".encode(),
        "marked.csv": "note:kind:amount\ncafé:a:\n".encode("utf-16"),
        "marked-too.csv": "note:kind:amount\ncafé:a:\n".encode("utf-8-sig"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        result = gen_ray("impute", model, "--data", tmp_path / name, "--out", tmp_path / f"filled-{name}")
        assert result.code == 0, result.err
        after = (tmp_path / f"filled-{name}").read_text().splitlines()[1].replace(",", ":")
        assert after.startswith("cafe:a:" if name == "ascii.csv" else "café:a:"), name
    samples = tmp_path / "samples.csv"
    assert gen_ray("sample", model, "-n", 5, "--out", samples).code == 0
    for options in ({"delimiter": ":", "encoding": "latin-1"}, {"encoding": "utf-16"}, {"encoding": "utf-16-le"}):
        model = write_model(tmp_path / str(len(options["encoding"])), **options)
        assert gen_ray("score", model, "--data", samples).code == 0, "a file of gen-ray itself needs no options"


def test_options_without_effect_are_one_line(gen_ray: Run, folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"amount": [1, None]}), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("amount\n1\n")
    images, rows = untrained(tmp_path, tmp_path / "images"), ("--data", tmp_path / "rows.csv")
    faults = {
        "rows.parquet, which is not CSV; leave it out": ("impute", folder, "--data", tmp_path / "rows.parquet"),
        "effect on": ("score", folder, "--data", tmp_path / "rows.parquet"),
        "without a CSV file as --data": ("score", folder),
        "effect without a CSV": ("score", folder, "--data", f"csv:{tmp_path}/rows.csv"),
        "effect on files of image": ("impute", images, "--data", tmp_path),
        "on files of image": ("score", images),
    }
    for fault, words in faults.items():
        for option in (("--delimiter", ";"), ("--encoding", "latin-1")):
            result = gen_ray(*words, *option)
            assert result.code == 2 and fault in result.fault and option[0] in result.fault, result.err
    result = gen_ray("impute", folder, *rows, "--delimiter", "::")
    assert result.code == 2 and "--delimiter: must be tab or one ASCII character" in result.fault
    result = gen_ray("impute", folder, *rows, "--encoding", "latin-0")
    assert result.code == 2 and "unknown encoding: latin-0; give one of Python's encodings" in result.fault
