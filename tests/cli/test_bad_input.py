"""Bad input (design section 10, rows 1 to 5) on the command line: exit code, and one line with problem and remedy."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from PIL import Image

from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.experiment import load
from gen_ray.storage import manifest
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.cluster.tiny_runs import TINY, weights
from tests.conftest import CommandResult, until

Run = Callable[..., CommandResult]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the configuration file of the tiny experiment, whose runs are stored below tmp_path."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, "storage": {"root": str(tmp_path / "runs")}}))
    return file


def untouched(config: Path) -> bool:
    """Return whether no run was started."""
    return not (config.parent / "runs" / "runs").exists()


# ---- row 1: unknown key, wrong type, out of range; row 2: no effect -------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", "error: training.epoch: training has no such key; did you mean 'epochs'?"),
        ("family.net.hiden=[8]", "did you mean 'hidden'?"),
        ("trainign.epochs=3", "did you mean 'training'?"),
        ("training.epochs=many", "error: training.epochs: must be an integer, got 'many'"),
        ("training.ema_decay=1.5", "error: training.ema_decay: must be less than 1, got 1.5"),
        ("family.name=vea", "did you mean 'vae'?"),
        ("name=../up", "error: name: "),
        ("family.schedule=cosine", "error: family.schedule: family has no such key"),
        ("family.binarise=static", "binarise has no effect"),
        ("evaluation.steps=50", "error: evaluation.steps: has no effect for vae"),
        ("evaluation.sampler=ddim", "error: evaluation.sampler: there is no sampler 'ddim'"),
        ("training.gradient_accumulation_steps=3", "must be a multiple of"),
        ("training.accumulate=2", "error: training.accumulate: is now called training.gradient_accumulation_steps"),
        ("training.recompute=true", "error: training.recompute: is now called training.activation_checkpointing"),
        ("data.options.length=3", "no effect"),
    ],
)
def test_rows_1_and_2_a_wrong_setting_is_refused(gen_ray: Run, config: Path, override: str, expected: str) -> None:
    result = gen_ray("train", config, override)
    assert result.code == 2 and expected in result.fault and not result.out and untouched(config)


# ---- row 3: missing data ------------------------------------------------------------------------------------------


def test_row_3_a_missing_data_set_is_named_with_folder_and_remedies(gen_ray: Run, config: Path, tmp_path: Path) -> None:
    # A proxy that never answers simulates a machine without network.
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        os.environ.pop(key, None)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        for key in ("http_proxy", "https_proxy"):
            patch.setenv(key, "http://127.0.0.1:9")
        patch.setenv("no_proxy", "")
        result = gen_ray("train", config, "data.source=fashion_mnist", f"data.root={tmp_path}/empty")
    assert time.monotonic() - began < 60
    assert result.code == 2 and f"{tmp_path}/empty/FashionMNIST/raw" in result.fault and untouched(config)
    assert "put torchvision's files in" in result.fault and "or run where the download works" in result.fault


# ---- row 4: damaged data ------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(60):
        Image.new("L", (4, 4), i).save(folder / f"{i:02d}.png")
    for i in (7, 8):
        (folder / f"{i:02d}.png").write_bytes((folder / f"{i:02d}.png").read_bytes()[:40])
    return folder


def test_row_4_a_corrupt_image_stops_before_training_or_is_set_aside_up_to_a_limit(
    gen_ray: Run, config: Path, images: Path
) -> None:
    source = f"data.source=image_folder:{images}"
    result = gen_ray("train", config, source)
    assert result.code == 2 and "07.png" in result.fault and untouched(config)
    result = gen_ray("train", config, source, "data.on_bad_row=skip:1")
    assert result.code == 2 and ("08.png" in result.fault or "2" in result.fault) and untouched(config)
    result = gen_ray("prepare", f"image_folder:{images}", "--on-bad-row", "skip:2", "--out", config.parent / "out")
    assert result.code == 0 and "2 bad rows set aside" in result.out
    quarantined = (Path(result.out.splitlines()[0]) / "quarantine.jsonl").read_text()
    assert "07.png" in quarantined and "08.png" in quarantined and len(quarantined.splitlines()) == 2


def test_row_4_a_truncated_parquet_source_stops_before_training(gen_ray: Run, config: Path, tmp_path: Path) -> None:
    prepared = prepare_data(load(config))
    content = prepared.shards("train")[0].path.read_bytes()
    (tmp_path / "own.parquet").write_bytes(content[: len(content) // 2])
    result = gen_ray("train", config, f"data.source=parquet:{tmp_path}/*.parquet")
    assert result.code == 2 and f"{tmp_path}/own.parquet" in result.fault and untouched(config)


@pytest.mark.usefixtures("cluster")
def test_row_4_a_flipped_byte_in_a_shard_fails_the_run(gen_ray: Run, config: Path) -> None:
    experiment = load(config)
    shard = prepare_data(experiment).shards("train")[0].path
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    result = gen_ray("train", config)
    assert result.code == 2 and result.fault.startswith(f"error: {shard}: damaged") and "prepare again" in result.fault
    [row] = rows(Store.of_experiment(experiment))
    assert row.status == "FAILED" and row.tags["error"].startswith(str(shard)) and "train/loss_nats" not in row.metrics
    assert not list((experiment.storage.root / "runs" / row.run_id).glob("step-*"))


# ---- row 5: a loss that is not finite -----------------------------------------------------------------------------


@pytest.mark.chaos  # half a minute
def test_row_5_a_loss_that_is_not_finite_ends_the_run_once_and_keeps_the_last_checkpoint(config: Path) -> None:
    """Runs the command as a user does, in a separate process, which starts Ray and leaves no process of it."""
    # Weights grow 9,000-fold per step: the loss is finite at first and then overflows.
    words = ["training.learning_rate=9", "training.weight_decay=1000", "scaling.max_failures=3"]
    command = [sys.executable, "-m", "pipelines.train", str(config), *words]
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # tmp_path is too long for sockets
        env = {**os.environ, "RAY_TMPDIR": folder}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
            until(lambda: len(_ray_processes(folder)) > 2, 100)  # otherwise the search below proves nothing
            out, err = process.communicate(timeout=200)
        until(lambda: not _ray_processes(folder), 10)
    *waiting, line = err.splitlines()
    assert all(": waits for " in report for report in waiting), err  # on a busy machine
    assert process.returncode == 1 and line.startswith("error: the loss or its gradient is not finite at step ")
    assert " on rank 0 (vae)" in line and not out
    experiment = load(config, words)
    [row] = rows(Store.of_experiment(experiment))
    assert (row.status, row.tags["reason"]) == ("FAILED", "non_finite") and row.tags["error"] in line
    home = experiment.storage.root / "runs" / row.run_id
    checkpoints = sorted((home / "checkpoints").glob("step-*"))
    failed_at = int(line.split("at step ")[1].split()[0])
    assert int(checkpoints[-1].name.removeprefix("step-")) == failed_at  # saved after the step before: one attempt
    manifest.verify(checkpoints[-1])
    assert all(torch.isfinite(value).all() for value in weights(checkpoints[-1]).values())
    assert not (home / "artifact").exists()


def _ray_processes(folder: str) -> list[str]:
    """Return the commands of this folder's Ray processes, found by their logs because workers rename themselves."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, FileNotFoundError):
            command = " ".join(process.cmdline())
            if folder in command or any(file.path.startswith(folder) for file in process.open_files()):
                found.append(command)
    return found


def test_a_tracking_server_that_does_not_answer_is_reported_before_training(
    gen_ray: Run, config: Path, cluster: None
) -> None:
    result = gen_ray("train", config, "tracking.uri=sqlite:////proc/none/mlflow.db")
    assert result.code == 1 and result.fault.startswith("error: MLflow at sqlite:////proc/none/mlflow.db: ")
    runs = config.parent / "runs" / "runs"
    assert not runs.exists() or not list(runs.iterdir())
