"""Lost machines and reading processes: no row is lost or repeated, and the run ends with the same result."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ray import cloudpickle
from ray.cluster_utils import Cluster

from gen_ray.cluster.data.blocks import Streamed
from gen_ray.datasets.shards import load_split
from tests.chaos.runs import long_experiment, newest_step, only_row, undisturbed_weights
from tests.chaos.test_killed import ray_processes
from tests.cluster.tiny_runs import same, sharded, weights
from tests.conftest import ROOT

pytestmark = [pytest.mark.timeout(480, method="thread")]


def _slowly(item: dict[str, np.ndarray]) -> Any:
    """Read as usual, but slowly enough to be killed."""
    from gen_ray.cluster.data.reading import _read

    time.sleep(0.3)
    return _read(item)


def test_rows_occur_exactly_once_although_their_readers_are_killed(
    cluster: None, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = sharded(storage)
    shards = prepared.shards("train")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr("gen_ray.cluster.data.reading._read", _slowly)
    streamed, struck, over = Streamed(shards, batch_size=1), list[int](), threading.Event()

    def strike() -> None:
        while len(struck) < 3 and not over.wait(0.2):
            for reader in ray_processes("MapBatches(")[:1]:
                reader.kill()
                struck.append(reader.pid)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    stream = streamed.stream(0)
    rows = torch.cat([micro for _ in range(streamed.rows) for micro in next(stream)]).numpy()
    over.set()
    thread.join()
    assert len(struck) == 3
    x, _ = load_split(prepared, "train")
    assert sorted(row.tobytes() for row in rows) == sorted(row.tobytes() for row in x)


@pytest.mark.soak
def test_a_run_that_loses_a_node_continues_on_another(cluster: None, storage: Path, tmp_path: Path) -> None:
    """Each of two nodes has a worker; the raylet of the second is killed, then a third node joins."""
    expected = undisturbed_weights(storage)
    experiment = long_experiment(storage, "lost-node", cpus_per_worker=2)
    file = tmp_path / "lost-node.yaml"
    file.write_text(yaml.safe_dump(experiment.resolved()))
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        second = nodes.add_node(num_cpus=2)
        command = [sys.executable, "-m", "pipelines.train", file]
        environment = {**os.environ, "RAY_ADDRESS": nodes.address}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as driver:
            while newest_step(experiment) < 30:
                assert driver.poll() is None, driver.stderr and driver.stderr.read()
                time.sleep(0.05)
            raylet = second.all_processes["raylet"][0].process
            raylet.send_signal(signal.SIGKILL)
            nodes.add_node(num_cpus=2)
            _, output = driver.communicate(timeout=200)
        assert driver.returncode == 0, output
    finally:
        nodes.shutdown()
    row = only_row(experiment)
    assert row.status == "FINISHED" and row.metrics["train/steps"] == 12 * 1462 // 128
    assert same(weights(experiment.storage.root / "runs" / row.run_id / "artifact"), expected)
