"""Blocks of rows through Ray Data: the same bytes for any number of workers, and as in one process."""

import hashlib
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from gen_ray.cluster.inference.stream import run_on_cluster
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows.blocks import RowBlock, RowRange, inspect
from gen_ray.engine.inference.rows.files import encode_file
from gen_ray.engine.inference.rows.results import BlockResult
from gen_ray.engine.inference.rows.sample import SampleTask
from gen_ray.errors import UserError
from tests.conftest import CommandResult
from tests.engine import tiny_models
from tests.engine.row_models import perfect_model, untrained_model, with_missing, write_csv
from tests.tabular_cases import mixed_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]
Run = Callable[..., CommandResult]


COMMANDS = {
    "impute": ("filled.csv", ("--data", "FILE", "--fill", "draw", "-k", 2)),
    "score": ("scored.csv", ("--data", "FILE", "--effort", 2)),
    "sample": ("rows.parquet", ("-n", 17_000, "--where", "amount=10..40")),
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_any_number_of_workers_gives_the_same_bytes(gen_ray: Run, tmp_path: Path, verb: str) -> None:
    artifact.write(tmp_path / "model", untrained_model(mixed_rows(300)))
    file, (name, options) = tmp_path / "rows.csv", COMMANDS[verb]
    write_csv(file, with_missing(mixed_rows(17_000), 0.2))
    words = [file if word == "FILE" else word for word in options]
    digests = {}
    for workers in (0, 1, 3):
        out = tmp_path / f"{workers}-{name}"
        result = gen_ray(verb, tmp_path / "model", *words, "--workers", workers, "--out", out)
        assert result.code == 0, result.err
        digests[workers] = hashlib.sha256(out.read_bytes()).hexdigest()
    assert len(set(digests.values())) == 1, digests


def test_images_in_a_folder(gen_ray: Run, tmp_path: Path) -> None:
    """A million samples are about a thousand files, and these do not depend on the number of processes."""
    artifact.write(tmp_path / "model", tiny_models.model("ddpm"))
    for workers in (0, 2):
        words = ("sample", tmp_path / "model", "-n", 2500, "--out", f"{tmp_path}/{workers}/", "--workers", workers)
        result = gen_ray(*words)
        assert result.code == 0, result.err
    names = ["_SUCCESS", *(f"part-{index:05d}.parquet" for index in range(3))]
    assert sorted(file.name for file in (tmp_path / "2").iterdir()) == names
    assert all((tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)


class Memory:
    """A task that returns the memory of its process instead of a file."""

    settings: dict[str, object] = {}  # noqa: RUF012

    def run(self, model: object, device: object, block: RowBlock) -> BlockResult:
        table = pa.table({"x": np.full(block.rows, block.first)})
        memory = psutil.Process().memory_full_info().uss / 2**20  # without the shared object store
        return BlockResult(block.index, block.rows, {"rows": encode_file(table, ".csv")}, {"memory": memory})


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Of 200,000 rows, the worker holds one block and the command one result at a time."""
    table = pa.concat_tables([mixed_rows(20_000)] * 10)
    model = untrained_model(mixed_rows(300))
    source = inspect(write_csv(tmp_path / "rows.csv", table), model.spec.columns)
    assert source.rows == 200_000 and len(source) == 25
    results = list(run_on_cluster(model, Memory(), source, frozenset({3}), 1))
    assert sorted(result.index for result in results) == [index for index in range(25) if index != 3]
    memory = [result.statistics["memory"] for result in sorted(results, key=lambda result: result.index)]
    assert max(memory) - memory[2] < 60, memory


class Killed(SampleTask):
    """A task whose worker dies at block 1, once."""

    def run(self, model: Model, device: torch.device, block: RowRange) -> BlockResult:
        if block.index == 1:
            with suppress(FileExistsError):
                (Path(self.suffix) / "died").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return BlockResult(block.index, block.rows, {}, {"first": block.first})


def test_the_block_of_a_lost_worker_is_computed_again(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("number\n1\n" + "1\n" * 40_000)
    model = perfect_model()
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    results = run_on_cluster(model, Killed(suffix=str(tmp_path), seed=0), source, frozenset(), 1)
    found = {result.index: result.statistics["first"] for result in results}
    assert found == {index: index * 8192 for index in range(5)} and (tmp_path / "died").exists()


class Failing(Memory):
    def run(self, model: object, device: object, block: RowBlock) -> BlockResult:
        raise UserError("block 0 is wrong")


def test_an_error_of_a_worker_is_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("number\n1\n")
    model = perfect_model()
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    with pytest.raises(UserError) as caught:
        list(run_on_cluster(model, Failing(), source, frozenset(), 1))
    assert str(caught.value) == "block 0 is wrong"


def test_an_error_of_the_reader_is_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("number\n1\n")
    model = perfect_model()
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(UserError, match=r"rows.csv"):
        list(run_on_cluster(model, Memory(), source, frozenset(), 1))
