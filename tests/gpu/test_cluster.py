"""Ray on the GPU: a training by NCCL, trials and replicas on half a GPU each, a killed worker and ``--resume``.

With ``--device cpu`` the GPU of Ray is simulated: every process that gets it computes on the CPU.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

# Not importorskip, which would also skip a package that is installed and cannot be imported.
if not (find_spec("ray") and find_spec("mlflow")):
    pytest.skip("ray and mlflow are not both installed", allow_module_level=True)

import ray
import requests
import torch.distributed

from gen_ray.client import Client
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.training.worker import train_worker
from gen_ray.engine.inference import artifact
from gen_ray.experiment import Experiment
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.chaos.machines import machines, start_on, wait_for_success, wait_while_running, write_config
from tests.chaos.runs import newest_step
from tests.chaos.simulated_gpus import GPU_LOG, ROOT
from tests.chaos.test_killed import RANK, ray_processes
from tests.cluster.tiny_runs import TINY, through_ray, tiny
from tests.conftest import free_port
from tests.engine.tiny_models import model
from tests.gpu.comparison import full_run

pytestmark = [pytest.mark.gpu, full_run, pytest.mark.timeout(600, method="thread")]
GPU = {"use_gpu": True, "cpus_per_worker": 1}
PATIENCE = 200.0
"""Seconds for one step of a test, which takes a tenth of that on an idle machine."""
HALF = {**GPU, "gpus_per_worker": 0.5}


@pytest.fixture(scope="module")
def nodes(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a cluster of this machine with one GPU, real or simulated, connected to this process."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    notes = tmp_path_factory.mktemp("played") / "notes"
    runtime: dict[str, Any] = {"env_vars": {"PYTHONPATH": path, GPU_LOG: str(notes)}}
    if device.type == "cpu":
        runtime["worker_process_setup_hook"] = "tests.chaos.simulated_gpus.simulate_gpus"
    with machines(6, num_gpus=1) as (found, _):
        ray.init(address=found.address, runtime_env=runtime, log_to_driver=False)
        try:
            yield found
        finally:
            ray.shutdown()


@pytest.fixture
def verb(nodes: Any, device: torch.device, tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Return a function that starts a command on the cluster; each process records its simulated GPU in a file."""

    def start(*words: object) -> "subprocess.Popen[str]":
        if device.type == "cuda":
            return start_on(nodes, *map(str, words))
        return start_on(nodes, "tests.chaos.simulated_gpus", *words, **{GPU_LOG: str(tmp_path / "notes")})

    return start


def short(storage: Path, name: str, scaling: Mapping[str, Any], **training: Any) -> Experiment:
    return tiny(storage, scaling=scaling, tracking={"experiment": name}, training=training)


# ---- Ray Train ------------------------------------------------------------------------------------------------------


def noting(task: Mapping[str, Any]) -> Any:
    """Record the device, the backend and a sum over all workers, then train as a worker does."""
    from gen_ray.cluster.nodes.device import reserved_device

    device = reserved_device()
    ones = torch.ones(3, device=device)
    torch.distributed.all_reduce(ones)
    found = {"device": device.type, "backend": torch.distributed.get_backend(), "sum": ones.tolist()}
    Path(task["note"]).write_text(json.dumps(found), encoding="utf-8")
    return train_worker(task)


@pytest.mark.usefixtures("nodes")
def test_train_with_one_worker(device: torch.device, storage: Path, tmp_path: Path) -> None:
    experiment, note = short(storage, "nccl", GPU), tmp_path / "note.json"
    weights, metrics = through_ray(experiment, prepare_data(experiment), "nccl", noting, note=str(note))
    found = json.loads(note.read_text(encoding="utf-8"))
    backend = "nccl" if device.type == "cuda" else "gloo"
    assert found == {"device": device.type, "backend": backend, "sum": [1.0, 1.0, 1.0]}
    assert all(weight.isfinite().all() for weight in weights.values())
    assert any("validation/loss_nats" in line for _, line in metrics)


# ---- Ray Tune -------------------------------------------------------------------------------------------------------


def test_two_trials_on_half_a_gpu_each(verb: Any, storage: Path, tmp_path: Path) -> None:
    base = {**TINY, "storage": {"root": str(storage)}, "tracking": {"experiment": "halves"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    settings = {
        "scaling": HALF,
        "training": {"epochs": 100, "validate_every_epochs": 20, "checkpoint_every_seconds": 60},
    }
    sweep = {"name": "halves", "experiment": "base.yaml", "searcher": {"name": "grid"}, "settings": settings}
    sweep["space"] = {"family.latent_dim": {"choice": [2, 3]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
    with verb("sweep", tmp_path / "sweep.yaml") as driver:
        wait_while_running(lambda: free() == 0, driver, PATIENCE)  # both at once
        wait_for_success(driver, PATIENCE)
    experiment = short(storage, "halves", HALF)
    trials = [row for row in rows(Store.of_experiment(experiment)) if "gen_ray.trial" in row.tags]
    assert [row.status for row in trials] == ["FINISHED"] * 2
    assert all(row.params["scaling.gpus_per_worker"] == "0.5" for row in trials)


def free() -> float:
    """Return the share of the GPU that is not reserved."""
    return float(ray.available_resources().get("GPU", 0.0))


# ---- Ray Serve ------------------------------------------------------------------------------------------------------


def test_two_replicas_on_half_a_gpu_each(verb: Any, tmp_path: Path) -> None:
    artifact.write(tmp_path / "runs" / "toy" / "artifact", model("ddpm"))
    port = free_port()
    words = ["--port", port, "--min-replicas", 2, "--max-replicas", 2, "--gpus", 0.5, "--cpus", 1]
    with verb("serve", "toy", "--storage", tmp_path, *words) as driver:
        try:
            wait_while_running(lambda: free() == 0 and is_ready(port), driver, PATIENCE)
            client = Client(f"http://127.0.0.1:{port}")
            with ThreadPoolExecutor(8) as pool:
                requests = [pool.submit(client.sample, "toy", n=4, seed=1, deterministic=True) for _ in range(16)]
            first, *others = [answer.result().arrays["samples"].tobytes() for answer in requests]
            assert all(other == first for other in others), "the same bytes from either replica"
        finally:
            driver.terminate()


def is_ready(port: int) -> bool:
    """Return whether the server answers and its model is loaded."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False


# ---- a killed worker ------------------------------------------------------------------------------------------------


def test_a_killed_worker_and_resume(verb: Any, storage: Path, tmp_path: Path) -> None:
    scaling = {**GPU, "max_failures": 0}
    experiment = short(storage, "killed", scaling, epochs=12, validate_every_epochs=6, sample_every_epochs=100)
    file = write_config(experiment, tmp_path)
    with verb("train", file) as driver:
        wait_while_running(lambda: newest_step(experiment) >= 20, driver, PATIENCE)
        [rank] = ray_processes(RANK)
        rank.send_signal(signal.SIGKILL)
        output, _ = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == 1, output
    [row] = rows(Store.of_experiment(experiment))
    assert row.status == "FAILED"
    with verb("train", file, "--resume") as driver:
        wait_for_success(driver, PATIENCE)
    [row] = rows(Store.of_experiment(experiment))
    assert row.status == "FINISHED" and row.metrics["train/steps"] == 12 * 1462 // 128
