"""Assignment of GPUs on a cluster with simulated GPUs, and the messages where they cannot be used."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gen_ray.engine.inference import artifact
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.chaos.machines import machines, start_on, wait_for_success, wait_while_running, write_config
from tests.chaos.simulated_gpus import GPU_LOG
from tests.cluster.test_sweep import plan
from tests.cluster.tiny_runs import tiny
from tests.conftest import free_port
from tests.engine.tiny_models import model

pytestmark = [pytest.mark.timeout(360, method="thread")]
AUTO = {"use_gpu": "auto", "cpus_per_worker": 1}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Return a cluster that counts two GPUs."""
    with machines(6, num_gpus=2) as (found, _):
        yield found


def start_with_gpus(nodes: Any, folder: Path, *words: object) -> "subprocess.Popen[str]":
    """Start a command with simulated GPUs."""
    return start_on(nodes, "tests.chaos.simulated_gpus", *words, **{GPU_LOG: str(folder / "notes")})


def gpus_of_processes(folder: Path) -> dict[int, set[str]]:
    """Return the GPUs of each process that has some."""
    found = defaultdict(set)
    for line in (folder / "notes").read_text().splitlines():
        pid, gpu = line.split()
        found[int(pid)].add(gpu)
    assert all(len(gpus) == 1 for gpus in found.values()), "a process has one GPU"
    return found


def test_a_gpu_that_torch_cannot_use_is_reported_with_its_machine(nodes: Any, storage: Path, tmp_path: Path) -> None:
    experiment = tiny(storage, scaling={**AUTO, "num_workers": 2}, tracking={"experiment": "no-driver"})
    with start_on(nodes, "train", write_config(experiment, tmp_path)) as driver:
        output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 2, output
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "Ray assigned GPU" in line and "use_gpu=false" in line and "Traceback" not in output
    assert [row.status for row in rows(Store.of_experiment(experiment))] == ["FAILED"]


def test_every_worker_trains_on_a_separate_gpu(nodes: Any, storage: Path, tmp_path: Path) -> None:
    experiment = tiny(storage, scaling={**AUTO, "num_workers": 2}, tracking={"experiment": "two-gpus"})
    with start_with_gpus(nodes, tmp_path, "train", write_config(experiment, tmp_path)) as driver:
        wait_for_success(driver)
    assert {gpu for gpus in gpus_of_processes(tmp_path).values() for gpu in gpus} == {"0", "1"}


@pytest.mark.soak
def test_trials_of_a_sweep_share_the_gpus(nodes: Any, storage: Path, tmp_path: Path) -> None:
    space = {"family.latent_dim": {"choice": [2, 3, 4, 5]}}
    plan(tmp_path, storage, "gpu-trials", space=space, settings={"scaling": AUTO, "training": {"epochs": 20}})
    with start_with_gpus(nodes, tmp_path, "sweep", tmp_path / "sweep.yaml") as driver:
        wait_for_success(driver)
    assert {gpu for gpus in gpus_of_processes(tmp_path).values() for gpu in gpus} == {"0", "1"}


@pytest.mark.soak
def test_replicas_share_a_gpu(nodes: Any, storage: Path, tmp_path: Path) -> None:
    artifact.write(tmp_path / "runs" / "toy" / "artifact", model("vae"))
    port = free_port()
    words = ["serve", "toy", "--storage", tmp_path, "--port", port, "--min-replicas", 4, "--gpus", 0.5, "--cpus", 1]
    with start_with_gpus(nodes, tmp_path, *words) as driver:
        try:
            wait_while_running(lambda: (tmp_path / "notes").exists() and len(gpus_of_processes(tmp_path)) == 4, driver)
            each = sorted(gpu for gpus in gpus_of_processes(tmp_path).values() for gpu in gpus)
            assert each == ["0", "0", "1", "1"]
        finally:
            driver.terminate()


def test_doctor_checks_every_machine(nodes: Any, tmp_path: Path) -> None:
    second = nodes.add_node(num_cpus=1)
    try:
        with start_on(nodes, "doctor", "--storage", tmp_path) as driver:
            output, _ = driver.communicate(timeout=100)
    finally:
        nodes.remove_node(second)
    assert driver.returncode == 1
    wrong = [line for line in output.splitlines() if line.startswith("NO ")]
    assert len(wrong) == 1 and "Ray counts 2 GPUs, torch" in wrong[0]
    assert len(re.findall(r"^ok  .* \(\S+\): \d+ cores", output, re.MULTILINE)) == 2
    assert not list(tmp_path.iterdir())
