"""Sweeps whose driver dies or whose store is unavailable: no trial is repeated and no result is missing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
import yaml

from gen_ray import run_directory
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.experiment import Experiment
from gen_ray.sweeps.config import SweepPlan, load
from gen_ray.tracking.runs import RunRow, rows
from gen_ray.tracking.store import Store
from tests.chaos.test_killed import ray_processes
from tests.cluster.tiny_runs import TINY, in_this_process, same, weights
from tests.conftest import ROOT

pytestmark = [pytest.mark.timeout(480, method="thread")]
TRIALS = 8


def write_sweep(folder: Path) -> tuple[Path, SweepPlan]:
    """Return the file and the plan of a sweep of eight trials of one or two seconds each."""
    base = {**TINY, "storage": {"root": str(folder / "runs")}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    sweep = {
        "name": "eight", "experiment": "base.yaml", "searcher": {"name": "grid"}, "metric": "validation/loss_nats",
        "settings": {"training": {"epochs": 12}}, "space": {"training.seed": {"choice": list(range(TRIALS))}},
    }  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file, load(file)


def finished_trials(root: Path) -> dict[str, int]:
    """Return the time of the result of each finished trial by its run id."""
    return {file.parent.name: file.stat().st_mtime_ns for file in root.glob("runs/eight-*/result.json")}


def sweep_and_trials(plan: SweepPlan) -> tuple[list[RunRow], list[RunRow]]:
    found = rows(Store.of_experiment(plan.experiment({})))
    return [row for row in found if row.tags.get("gen_ray.kind") == "sweep"], [
        row for row in found if "gen_ray.trial" in row.tags
    ]


def total_steps(experiment: Experiment) -> int:
    rows_of_train = prepare_data(experiment).rows["train"]
    return experiment.training.epochs * rows_of_train // experiment.data.batch_size


def kill_children(children: list[psutil.Process]) -> None:
    """End the remaining Ray processes of a dead driver; some would run for another half minute."""
    for process in children:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(children, timeout=30)


@pytest.mark.parametrize("kills", [(2,), pytest.param((1, 2, 2), marks=pytest.mark.soak)], ids=["once", "three"])
def test_a_sweep_whose_driver_is_killed_repeats_nothing(kills: Sequence[int], tmp_path: Path) -> None:
    """Each number is that of the trials that finish before the driver is killed."""
    file, plan = write_sweep(tmp_path)
    root, known = plan.experiment({}).storage.root, dict[str, int]()
    command = [sys.executable, "-m", "pipelines.sweep", str(file)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    for more in kills:
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while len(finished_trials(root)) < len(known) + more:
            assert driver.poll() is None, driver.returncode
            time.sleep(0.02)
        children = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kill_children(children)
        now = finished_trials(root)
        assert known.items() <= now.items(), "a finished trial was run again"
        known, command = now, [*command[:4], "--resume"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert known.items() <= finished_trials(root).items() and len(finished_trials(root)) == TRIALS

    [parent], trials = sweep_and_trials(plan)
    assert parent.status == "FINISHED" and Counter(row.status for row in trials) == {"FINISHED": TRIALS}
    assert {row.tags["gen_ray.trial"] for row in trials} == {f"{number:03d}" for number in range(TRIALS)}
    losses = {row.run_id: row.metrics["validation/loss_nats"] for row in trials}
    assert parent.tags["best_run"] == min(losses, key=lambda run_id: losses[run_id])
    for run_id in (parent.tags["best_run"], next(iter(known))):
        experiment = run_directory.load(run_directory.folder(plan.experiment({}), run_id))
        undisturbed, _ = in_this_process(experiment, prepare_data(experiment))
        assert same(undisturbed, weights(run_directory.folder(experiment, run_id) / "artifact"))


@pytest.mark.usefixtures("cluster")
def test_trials_whose_processes_are_killed_finish(tmp_path: Path) -> None:
    _, plan = write_sweep(tmp_path)
    struck, over, rng = list[int](), Event(), random.Random(1)

    def strike() -> None:
        while len(struck) < 5 and not over.wait(rng.uniform(1.0, 2.5)):
            found = [process for process in ray_processes("ImplicitFunc") if process.pid not in struck]
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
    _, trials = sweep_and_trials(plan)
    assert Counter(row.status for row in trials) == {"FINISHED": TRIALS}
    last = {result.metrics["train/steps"] for result in outcome.results}
    assert last == {total_steps(plan.experiment({}))}
