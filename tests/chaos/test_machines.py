"""Machines lost while their cluster reads, sweeps and serves, and drivers that die on a cluster."""

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from gen_ray.client import ApiError, Client
from gen_ray.cluster.data.blocks import Streamed
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.engine.inference import artifact
from gen_ray.engine.training.batches import CombinedBatches
from gen_ray.engine.training.loop import fit
from gen_ray.engine.training.session import LocalSession
from gen_ray.experiment import Experiment
from tests.chaos.machines import machines, power_cut, start_on, wait_for_success, wait_while_running, write_config
from tests.chaos.runs import long_experiment, newest_step, only_row, undisturbed_weights
from tests.cluster.tiny_runs import same, weights
from tests.conftest import free_port
from tests.engine.tiny_models import model

pytestmark = [pytest.mark.timeout(480, method="thread")]


def streamed_here(experiment: Experiment) -> dict[str, object]:
    """Return the weights of a training on the streams of two workers in one process."""
    prepared = prepare_data(experiment)
    position = {"batch_size": experiment.data.batch_size, "seed": 3, "world_size": 2}
    splits = {
        name: CombinedBatches([Streamed(prepared.shards(name), rank=rank, **position) for rank in range(2)])
        for name in ("train", "validation")
    }
    session = LocalSession(splits, logical_workers=range(2), logical_worker_count=2)
    return fit(experiment, experiment.model(prepared.spec), session).state_dict()


@pytest.mark.soak
def test_a_machine_is_lost_while_its_worker_streams(cluster: None, storage: Path, tmp_path: Path) -> None:
    """No row is lost or repeated, because the weights equal those of an undisturbed process."""
    experiment = long_experiment(storage, "streaming", num_workers=[1, 2], cpus_per_worker=1)
    experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"cache": "stream"})})
    expected = streamed_here(experiment)
    with machines(1, 1) as (nodes, [second]), start_on(nodes, "train", write_config(experiment, tmp_path)) as driver:
        wait_while_running(lambda: newest_step(experiment) >= 30, driver)
        power_cut(second)
        wait_for_success(driver)
    row = only_row(experiment)
    assert row.status == "FINISHED"
    assert same(weights(experiment.storage.root / "runs" / row.run_id / "artifact"), expected)


def test_after_the_death_of_a_driver_the_same_command_continues(cluster: None, storage: Path, tmp_path: Path) -> None:
    experiment = long_experiment(storage, "driverless", cpus_per_worker=1)
    file = write_config(experiment, tmp_path)
    with machines(2, 1) as (nodes, _):
        with start_on(nodes, "train", file) as driver:
            wait_while_running(lambda: newest_step(experiment) >= 30, driver)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        step = newest_step(experiment)
        with start_on(nodes, "train", file, "--resume") as driver:
            wait_for_success(driver)
    row = only_row(experiment)
    assert step >= 30 and row.status == "FINISHED"
    assert same(weights(experiment.storage.root / "runs" / row.run_id / "artifact"), undisturbed_weights(storage))


def test_a_machine_is_lost_while_both_serve(cluster: None, tmp_path: Path) -> None:
    """Two replicas on two machines, ten requests per second with the client of this project: no request fails."""
    artifact.write(tmp_path / "runs" / "toy" / "artifact", model("ddpm"))
    port = free_port()
    words = ["toy=toy", "--storage", tmp_path, "--port", port, "--min-replicas", 2]
    outcomes: Counter[str] = Counter()

    def ask(seed: int) -> None:
        try:
            Client(f"http://127.0.0.1:{port}").sample("toy", n=1, seed=seed, sampler="ddim", steps=10)
            outcomes["done"] += 1
        except ApiError as error:
            outcomes[str(error)] += 1

    with machines(1, 1) as (nodes, [second]), start_on(nodes, "serve", *words) as driver:
        wait_while_running(lambda: _ready(port), driver)
        with ThreadPoolExecutor(8) as pool:
            for seed in range(150):
                if seed == 40:
                    power_cut(second)
                pool.submit(ask, seed)
                time.sleep(0.1)
        driver.send_signal(signal.SIGTERM)
        wait_for_success(driver)
    assert outcomes == {"done": 150}


def _ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz/ready", timeout=2).status_code == 200
    except requests.RequestException:
        return False
