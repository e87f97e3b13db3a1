"""Sweeps whose driver dies at any moment, and whose store goes away: nothing is done twice, nothing is left untold."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from gen_ray import runs
from gen_ray.cluster.train import prepare_data, store_of
from gen_ray.sweeps.config import Plan, load
from gen_ray.tracking import Row, rows
from tests.cluster.street import TINY, in_this_process, same, weights
from tests.conftest import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240, method="thread")]
TRIALS = 8


def written(folder: Path) -> tuple[Path, Plan]:
    """Return the file of a sweep of eight trials of a second or two each, and its plan."""
    base = {**TINY, "storage": {"root": str(folder / "runs")}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    sweep = {
        "name": "eight", "experiment": "base.yaml", "searcher": {"name": "grid"}, "metric": "validation/loss_nats",
        "settings": {"training": {"epochs": 20}}, "space": {"training.seed": {"choice": list(range(TRIALS))}},
    }  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file, load(file)


def finished(root: Path) -> dict[str, int]:
    """Return the trials that have their result, with when they had it."""
    return {file.parent.name: file.stat().st_mtime_ns for file in root.glob("runs/eight-*/result.json")}


def story(plan: Plan) -> tuple[list[Row], list[Row]]:
    found = rows(store_of(plan.experiment({})))
    return [row for row in found if row.tags.get("gen_ray.kind") == "sweep"], [
        row for row in found if "gen_ray.trial" in row.tags
    ]


def gone(children: list[psutil.Process]) -> None:
    """Return when a dead driver's processes have ended: of their own accord, but for Ray's agents, which may linger."""
    _, alive = psutil.wait_procs(children, timeout=10)
    lingering = {process.pid for process in alive if process.name().endswith("Agent")}
    assert lingering == {process.pid for process in alive}, alive
    for process in alive:
        process.kill()


def test_a_sweep_whose_driver_is_killed_three_times_does_nothing_twice(tmp_path: Path) -> None:
    file, plan = written(tmp_path)
    root, known = plan.experiment({}).storage.root, dict[str, int]()
    command = [sys.executable, "-m", "pipelines.sweep", str(file)]
    calm = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    for more in (1, 2, 2):
        driver = subprocess.Popen(command, cwd=ROOT, env=calm, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while len(finished(root)) < len(known) + more:
            assert driver.poll() is None, driver.returncode
            time.sleep(0.02)
        children = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        gone(children)
        now = finished(root)
        assert known.items() <= now.items(), "a finished trial was run again"
        known, command = now, [*command[:4], "--resume"]
    done = subprocess.run(command, cwd=ROOT, env=calm, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert known.items() <= finished(root).items() and len(finished(root)) == TRIALS

    [parent], trials = story(plan)
    assert parent.status == "FINISHED" and Counter(row.status for row in trials) == {"FINISHED": TRIALS}
    assert {row.tags["gen_ray.trial"] for row in trials} == {f"{number:03d}" for number in range(TRIALS)}
    losses = {row.run_id: row.metrics["validation/loss_nats"] for row in trials}
    assert parent.tags["best_run"] == min(losses, key=lambda run_id: losses[run_id])
    for run_id in (parent.tags["best_run"], next(iter(known))):
        experiment = runs.load(runs.folder(plan.experiment({}), run_id))
        undisturbed, _ = in_this_process(experiment, prepare_data(experiment))
        assert same(undisturbed, weights(runs.folder(experiment, run_id) / "artifact"))


def test_a_store_that_is_away_for_half_a_minute_stops_nothing_and_misses_nothing(
    tmp_path: Path, storage: Path, cluster: None
) -> None:
    """MLflow's server stands still, as it does on a busy host: it answers nobody, and goes on afterwards."""
    from gen_ray.cluster.train import train
    from tests.cluster.street import tiny

    port = 5900 + os.getpid() % 90
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{tmp_path}/away.db", "--artifacts-destination", str(tmp_path / "kept")),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    training: dict[str, Any] = {"epochs": 300, "log_every_steps": 5, "checkpoint_every_seconds": 5}
    experiment = tiny(storage, training=training, tracking={"uri": f"http://127.0.0.1:{port}", "experiment": "away"})
    stilled: list[float] = []

    def watch(done: int, total: int, newest: Any) -> None:
        if done > total // 4 and not stilled:
            stilled.append(time.monotonic())
            _signal_all(server.pid, signal.SIGKILL)

    try:
        _wait_for(port)
        done = train(experiment, watch=watch)
    finally:
        _signal_all(server.pid, signal.SIGKILL)
    assert stilled and done.run_id


def _signal_all(pid: int, how: int) -> None:
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        process.send_signal(how)


def _wait_for(port: int) -> None:
    import socket

    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("MLflow's server does not answer")
