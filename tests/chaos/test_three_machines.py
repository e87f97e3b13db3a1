"""Training and sweep on three machines, of which one is lost together with the MLflow server."""

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.experiment import parse
from gen_ray.sweeps.config import load
from gen_ray.tracking.runs import connect
from gen_ray.tracking.store import Store
from tests.chaos.machines import machines, power_cut, start_on, wait_for_success, wait_while_running, write_config
from tests.chaos.runs import long_experiment, newest_step, only_row
from tests.chaos.test_sweeps import finished_trials, sweep_and_trials, total_steps
from tests.chaos.test_sweeps import write_sweep as eight
from tests.chaos.test_tracking_away import mlflow_server
from tests.conftest import free_port

pytestmark = [pytest.mark.timeout(480, method="thread")]
AWAY_SECONDS, TRIALS = 10.0, 4


def run_with_losses(
    folder: Path, port: int, begin: Callable[[Any], "subprocess.Popen[str]"], ripe: Callable[[], Any]
) -> None:
    """Run a command on three machines; once ripe() is true, remove one machine and, for a while, MLflow."""
    with machines(1, 1, 1) as (nodes, [_, third]):
        with mlflow_server(folder, port):
            driver = begin(nodes)
            wait_while_running(ripe, driver)
        with driver:
            power_cut(third)
            time.sleep(AWAY_SECONDS)
            with mlflow_server(folder, port):
                wait_for_success(driver)


@pytest.mark.soak
def test_a_training_continues_and_mlflow_has_every_point(cluster: None, storage: Path, tmp_path: Path) -> None:
    port = free_port()
    tracking = {"uri": f"http://127.0.0.1:{port}", "experiment": "three"}
    three = {
        **long_experiment(storage, "three", tracking=tracking).resolved(),
        "data": {"source": "digits", "batch_size": 96},
    }
    experiment = parse({**three, "scaling": {**three["scaling"], "num_workers": [1, 3], "cpus_per_worker": 1}})
    file = write_config(experiment, tmp_path)
    run_with_losses(tmp_path, port, lambda nodes: start_on(nodes, "train", file), lambda: newest_step(experiment) >= 20)
    with mlflow_server(tmp_path, port):
        row = only_row(experiment)
        history = connect(Store.of_experiment(experiment)).get_metric_history(row.mlflow_id, "train/loss_nats")
    total = prepare_data(experiment).rows["train"] * experiment.training.epochs // 96
    assert row.status == "FINISHED" and row.params["scaling.num_workers"] == "[1, 3]"
    assert {point.step for point in history} >= {*range(5, total, 5), total}


def test_a_sweep_continues_and_no_trial_is_reported_twice(cluster: None, tmp_path: Path) -> None:
    """Trials of the lost machine continue elsewhere from their checkpoints; finished trials are not repeated."""
    file, plan = eight(tmp_path)
    port, raw = free_port(), yaml.safe_load(file.read_text())
    raw["space"] = {"training.seed": {"choice": list(range(TRIALS))}}
    raw["settings"]["tracking"] = {"uri": f"http://127.0.0.1:{port}", "experiment": "three"}
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    plan, root = load(file), plan.experiment({}).storage.root
    before = dict[str, int]()
    run_with_losses(
        tmp_path,
        port,
        lambda nodes: start_on(nodes, "sweep", file),
        lambda: before.update(finished_trials(root)) or before,
    )
    after = finished_trials(root)
    assert len(after) == TRIALS and all(after[trial] == when for trial, when in before.items())
    with mlflow_server(tmp_path, port):
        [parent], trials = sweep_and_trials(plan)
    assert parent.status == "FINISHED" and Counter(row.status for row in trials) == {"FINISHED": TRIALS}
    assert {row.tags["gen_ray.trial"] for row in trials} == {f"{number:03d}" for number in range(TRIALS)}
    assert {row.metrics["train/steps"] for row in trials} == {total_steps(plan.experiment({}))}
