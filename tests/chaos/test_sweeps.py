"""Sweeps whose driver dies at any moment, and whose store goes away: nothing is done twice, nothing is left untold."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest
import yaml

from gen_ray import runs
from gen_ray.cluster.sweep import sweep
from gen_ray.cluster.train import prepare_data, store_of, train
from gen_ray.experiment import Experiment
from gen_ray.sweeps.config import Plan, load
from gen_ray.tracking import Row, connect, rows
from tests.chaos.test_killed import processes
from tests.cluster.street import TINY, in_this_process, same, tiny, weights
from tests.conftest import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240, method="thread")]
TRIALS = 8


def written(folder: Path) -> tuple[Path, Plan]:
    """Return the file of a sweep of eight trials of a second or two each, and its plan."""
    base = {**TINY, "storage": {"root": str(folder / "runs")}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    sweep = {
        "name": "eight", "experiment": "base.yaml", "searcher": {"name": "grid"}, "metric": "validation/loss_nats",
        "settings": {"training": {"epochs": 12}}, "space": {"training.seed": {"choice": list(range(TRIALS))}},
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


def steps_in_all(experiment: Experiment) -> int:
    rows_of_train = prepare_data(experiment).rows["train"]
    return experiment.training.epochs * rows_of_train // experiment.data.batch_size


def gone(children: list[psutil.Process]) -> None:
    """Return when a dead driver's processes have ended: of their own accord, but for Ray's agents, which linger."""
    agents = [process for process in children if process.is_running() and process.name().endswith("Agent")]
    _, alive = psutil.wait_procs([process for process in children if process not in agents], timeout=30)
    assert not alive, alive
    for process in agents:
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


@pytest.mark.usefixtures("cluster")
def test_trials_whose_processes_are_killed_reach_their_end(tmp_path: Path) -> None:
    _, plan = written(tmp_path)
    struck, over, rng = list[int](), Event(), random.Random(1)

    def strike() -> None:
        while len(struck) < 5 and not over.wait(rng.uniform(1.0, 2.5)):
            found = [process for process in processes("ImplicitFunc") if process.pid not in struck]
            if found:
                rng.choice(found).kill()
                struck.append(1)

    thread = Thread(target=strike, daemon=True)
    thread.start()
    try:
        outcome = sweep(plan)
    finally:
        over.set()
        thread.join()
    assert len(struck) == 5 and [result.state for result in outcome.results] == ["finished"] * TRIALS
    _, trials = story(plan)
    assert Counter(row.status for row in trials) == {"FINISHED": TRIALS}
    last = {result.metrics["train/steps"] for result in outcome.results}
    assert last == {steps_in_all(plan.experiment({}))}


@contextmanager
def served(folder: Path, port: int) -> Iterator[None]:
    """Serve MLflow's store of a folder while the block runs."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/away.db", "--artifacts-destination", str(folder / "kept")),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
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


@pytest.mark.usefixtures("cluster")
def test_a_store_that_is_away_for_half_a_minute_stops_nothing_and_misses_nothing(tmp_path: Path) -> None:
    """MLflow's server is killed once a run trains, and is back 30 seconds later; by then the training is over."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"uri": f"http://127.0.0.1:{port}", "experiment": "away"}
    training = {"epochs": 40, "log_every_steps": 1, "sample_every_epochs": 1000, "checkpoint_every_seconds": 60}
    experiment = tiny(tmp_path / "runs", training=training, tracking=where)
    begun, trained = Event(), list[float]()

    def watch(done: int, total: int, _: Any) -> None:
        if done:
            begun.set()
        if done == total and not trained:
            trained.append(time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        with served(tmp_path, port):
            running = pool.submit(train, experiment, watch=watch)
            assert begun.wait(90)
        away = time.monotonic()
        time.sleep(30)
        back = time.monotonic()
        with served(tmp_path, port):
            done = running.result(90)
            client = connect(store_of(experiment))
            [row] = rows(store_of(experiment))
            steps = [point.step for point in client.get_metric_history(row.mlflow_id, "train/loss_nats")]
    assert trained and away < trained[0] < back, "the training did not wait for the store"
    assert row.status == "FINISHED" and row.run_id == done.run_id
    assert steps == list(range(1, steps_in_all(experiment) + 1)), "no point is missing, and none is there twice"
