"""Elastic runs: they continue with the remaining machines, and save a checkpoint on a preemption notice."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from gen_ray.experiment import Experiment
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.chaos.machines import machines, power_cut, start_on, wait_for_success, wait_while_running, write_config
from tests.chaos.runs import long_experiment, newest_step, only_row, undisturbed_weights
from tests.cluster.tiny_runs import same, weights

pytestmark = [pytest.mark.timeout(480, method="thread")]


def test_a_run_continues_with_one_of_two_workers_and_adds_a_second_later(
    cluster: None, storage: Path, tmp_path: Path
) -> None:
    """For any number of workers at any step, the weights equal those of an undisturbed run of two workers."""
    expected = undisturbed_weights(storage)
    experiment = long_experiment(storage, "elastic", num_workers=[1, 2], cpus_per_worker=1, grow_seconds=3)
    with (
        machines(1, 1) as (nodes, [second]),
        start_on(nodes, "train", write_config(experiment, tmp_path)) as driver,
    ):
        wait_while_running(lambda: newest_step(experiment) >= 20, driver)
        power_cut(second)
        shrunk = _pause(experiment, driver)
        nodes.add_node(num_cpus=1)
        wait_for_success(driver)
    row = only_row(experiment)
    assert row.status == "FINISHED" and row.params["scaling.num_workers"] == "[1, 2]"
    assert same(weights(experiment.storage.root / "runs" / row.run_id / "artifact"), expected)
    assert 2 < shrunk < 60
    print(f"no step for {shrunk:.1f} s")


def test_a_preemption_notice_saves_a_checkpoint_at_once(cluster: None, storage: Path, tmp_path: Path) -> None:
    """The next checkpoint is due in an hour; the machine is removed 20 seconds after the notice."""
    experiment = long_experiment(storage, "notice", num_workers=[1, 2], cpus_per_worker=1)
    words = ["training.checkpoint_every_seconds=3600", "training.epochs=400"]
    heeded = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
    with (
        machines(1, 1) as (nodes, [second]),
        start_on(nodes, "train", write_config(experiment, tmp_path), *words, **heeded) as driver,
    ):
        wait_while_running(lambda: _trains(experiment), driver)
        _notice(nodes, second, seconds=20)
        saved = wait_while_running(lambda: newest_step(experiment) > 0, driver)
        driver.terminate()
        driver.communicate(timeout=60)
    assert saved < 15
    print(f"saved {saved:.1f} s after the notice")


def _pause(experiment: Experiment, driver: "subprocess.Popen[str]") -> float:
    """Return the seconds without a checkpoint until the run continues; otherwise every step has a checkpoint."""
    last, began = newest_step(experiment), time.monotonic()
    while True:
        pause = wait_while_running(lambda before=last: newest_step(experiment) != before, driver)
        if pause > 2:
            return pause
        last = newest_step(experiment)
        assert time.monotonic() < began + 60


def _trains(experiment: Experiment) -> bool:
    return any("train/loss_nats" in row.metrics for row in rows(Store.of_experiment(experiment)))


def _notice(nodes: Cluster, node: Any, *, seconds: int) -> None:
    """Send Ray the notice of a cloud that a node will be removed in the given seconds."""
    command = [
        str(Path(sys.executable).with_name("ray")), "drain-node", "--address", nodes.address, "--node-id", node.node_id,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "reclaimed",
        "--deadline-remaining-seconds", str(seconds),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
