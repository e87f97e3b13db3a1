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
from tests.chaos.machines import ended, machines, on, power_cut, until, written
from tests.chaos.runs import long, newest, the_row
from tests.chaos.test_sweeps import finished, steps_in_all, story
from tests.chaos.test_sweeps import written as eight
from tests.chaos.test_tracking_away import served
from tests.conftest import free_port

pytestmark = [pytest.mark.timeout(480, method="thread")]
AWAY_SECONDS, TRIALS = 10.0, 4


def struck(folder: Path, port: int, begin: Callable[[Any], "subprocess.Popen[str]"], ripe: Callable[[], Any]) -> None:
    """Run a command on three machines; once ripe() is true, remove one machine and, for a while, MLflow."""
    with machines(1, 1, 1) as (nodes, [_, third]):
        with served(folder, port):
            driver = begin(nodes)
            until(ripe, driver)
        with driver:
            power_cut(third)
            time.sleep(AWAY_SECONDS)
            with served(folder, port):
                ended(driver)


@pytest.mark.soak
def test_a_training_continues_and_mlflow_has_every_point(cluster: None, storage: Path, tmp_path: Path) -> None:
    port = free_port()
    tracking = {"uri": f"http://127.0.0.1:{port}", "experiment": "three"}
    three = {**long(storage, "three", tracking=tracking).resolved(), "data": {"source": "digits", "batch_size": 96}}
    experiment = parse({**three, "scaling": {**three["scaling"], "num_workers": [1, 3], "cpus_per_worker": 1}})
    file = written(experiment, tmp_path)
    struck(tmp_path, port, lambda nodes: on(nodes, "train", file), lambda: newest(experiment) >= 20)
    with served(tmp_path, port):
        row = the_row(experiment)
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
    struck(tmp_path, port, lambda nodes: on(nodes, "sweep", file), lambda: before.update(finished(root)) or before)
    after = finished(root)
    assert len(after) == TRIALS and all(after[trial] == when for trial, when in before.items())
    with served(tmp_path, port):
        [parent], trials = story(plan)
    assert parent.status == "FINISHED" and Counter(row.status for row in trials) == {"FINISHED": TRIALS}
    assert {row.tags["gen_ray.trial"] for row in trials} == {f"{number:03d}" for number in range(TRIALS)}
    assert {row.metrics["train/steps"] for row in trials} == {steps_in_all(plan.experiment({}))}
