"""The MLflow server is unavailable for a quarter of a minute during a run."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.training.train import train
from gen_ray.tracking.runs import connect, rows
from gen_ray.tracking.store import Store
from tests.cluster.tiny_runs import tiny
from tests.conftest import free_port

AWAY_SECONDS, EVERY, EPOCHS = 15.0, 20, 900
"""Seconds without a server, steps between two logged losses, and epochs of the run, which lasts longer than that."""
PAUSE_SECONDS = 3.0
"""A caller that waits for the store would be blocked until its request times out or the store is back."""


@contextmanager
def mlflow_server(folder: Path, port: int, artifacts: Path | None = None) -> Iterator[None]:
    """Serve the MLflow store of a folder during the block, then kill the server; artifacts may be elsewhere."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/away.db"),
            *("--artifacts-destination", str(artifacts or folder / "kept")),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not _answers(port):
            assert time.monotonic() < until and server.poll() is None, "MLflow's server does not answer"
            time.sleep(0.2)
        yield
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), server]:
            process.kill()
        server.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
        return bool(answer.status == 200)
    return False


def longest_pause(progress: list[tuple[float, int]], total: int) -> float:
    """Return the longest time in seconds between two steps."""
    advances = [at for (at, step), (_, before) in zip(progress[1:], progress, strict=False) if step > before]
    ends = [at for at, step in progress if step >= total][:1] or [progress[-1][0]]
    times = [progress[0][0], *(at for at in advances if at <= ends[0]), ends[0]]
    return max(later - at for at, later in pairwise(times))


@pytest.mark.timed
@pytest.mark.usefixtures("cluster")
def test_training_does_not_wait_for_an_unavailable_store_and_no_point_is_missing(tmp_path: Path) -> None:
    port = free_port()
    where = {"uri": f"http://127.0.0.1:{port}", "experiment": "away"}
    rare = dict.fromkeys(("validate_every_epochs", "sample_every_epochs"), EPOCHS)
    training = {"epochs": EPOCHS, **rare, "checkpoint_every_seconds": 60, "log_every_steps": EVERY}
    experiment = tiny(tmp_path / "runs", training=training, tracking=where)
    started, progress = Event(), list[tuple[float, int]]()

    def watch(done: int, total: int, _: Any) -> None:
        progress.append((time.monotonic(), done))
        if done:
            started.set()

    with ThreadPoolExecutor(1) as pool:
        with mlflow_server(tmp_path, port):
            running = pool.submit(train, experiment, watch=watch)
            assert started.wait(90)
        away = time.monotonic()
        time.sleep(AWAY_SECONDS)
        back = time.monotonic()
        with mlflow_server(tmp_path, port):
            done = running.result(120)
            client, [row] = connect(Store.of_experiment(experiment)), rows(Store.of_experiment(experiment))
            history = client.get_metric_history(row.mlflow_id, "train/loss_nats")
    total = prepare_data(experiment).rows["train"] * EPOCHS // 128
    meanwhile = [(at, step) for at, step in progress if away < at < back]
    assert meanwhile[-1][1] > meanwhile[0][1] and longest_pause(meanwhile, total) < PAUSE_SECONDS, (
        "it waited for the store"
    )
    assert row.status == "FINISHED" and row.run_id == done.run_id
    assert sorted(point.step for point in history) == [*range(EVERY, total, EVERY), total]
