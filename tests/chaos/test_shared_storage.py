"""Storage on a real S3 server on loopback: data, runs, checkpoints and MLflow artifacts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from gen_ray import run_directory
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.configuration.overrides import merge
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.training import checkpoint_store
from gen_ray.experiment import Experiment, parse
from gen_ray.storage.paths import remote
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.chaos.test_tracking_away import mlflow_server
from tests.cluster.tiny_runs import in_this_process, same, through_ray, tiny, weights
from tests.conftest import ROOT, free_port

pytestmark = [pytest.mark.timeout(480, method="thread")]


def on(s3: Path, name: str, experiment: Experiment, **sections: object) -> Experiment:
    raw = experiment.resolved()
    merge(raw, {"storage": {"root": str(s3 / name)}, "name": name, **sections})
    return parse(raw)


def test_weights_trained_on_s3_equal_those_of_a_folder(cluster: None, s3: Path, storage: Path) -> None:
    """Two workers read, save and resume on S3; the weights equal those of one process on a local folder to the bit."""
    away = on(s3, "away", tiny(storage, training={"epochs": 2}, scaling={"num_workers": 2}))
    prepared = prepare_data(away)
    assert str(prepared.folder).startswith(f"{s3 / 'away' / 'data'}/digits-")
    assert Prepared.load(prepared.folder).fingerprint == prepare_data(away).fingerprint
    single = tiny(storage, training={"epochs": 2, "gradient_accumulation_steps": 2})
    expected, _ = in_this_process(single, prepare_data(single))
    home = run_directory.folder(away, "away-run")
    through_ray(away, prepared, "away-run", until=1)
    first = checkpoint_store.checkpoints(home).last()
    assert first is not None
    through_ray(away, prepared, "away-run")
    last = checkpoint_store.checkpoints(home).last()
    assert last is not None and checkpoint_store.step_of(last) > checkpoint_store.step_of(first)
    assert same(weights(last), expected)


@pytest.fixture
def mlflow(s3: Path, tmp_path: Path) -> Iterator[str]:
    """Return the address of an MLflow server whose artifacts are on S3."""
    port = free_port()
    with mlflow_server(tmp_path, port, s3 / "mlflow"):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.soak
def test_every_command_finds_the_results_of_others_on_s3(s3: Path, mlflow: str, storage: Path, tmp_path: Path) -> None:
    """Trains, resumes, sweeps, evaluates, samples, promotes and compares; only two variables name the storage."""
    environment = {**os.environ, "GEN_RAY_STORAGE": str(s3 / "verbs"), "MLFLOW_TRACKING_URI": mlflow}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def gen_ray(*words: object) -> str:
        command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    raw = tiny(storage).resolved() | {"name": "there"}
    del raw["storage"]
    file, plan = tmp_path / "there.yaml", tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(raw))
    grid = {"space": {"family.latent_dim": {"choice": [2, 3]}}, "searcher": {"name": "grid"}}
    plan.write_text(yaml.safe_dump({"name": "swept", "experiment": str(file), **grid}))
    gen_ray("train", file)
    gen_ray("sweep", plan)
    gen_ray("promote", "there", "-n", "64", "--minutes", "0.05", "--name", "there")
    pictures = [tmp_path / "run.npz", tmp_path / "champion.npz"]
    gen_ray("sample", "there", "-n", "2", "--out", pictures[0])
    gen_ray("sample", "models:/there@champion", "-n", "2", "--out", pictures[1])
    first, second = (np.load(picture)["samples"] for picture in pictures)
    assert (first == second).all()
    assert "there" in gen_ray("compare")
    states = {row.name: row.status for row in rows(Store(mlflow, "gen_ray"))}
    assert set(states.values()) == {"FINISHED"} and len(states) == 4
    client, bucket = remote(s3)
    files = [path.removeprefix(f"{bucket}verbs/") for path in client.find(f"{bucket}verbs")]
    assert {path.split("/")[0] for path in files} == {"data", "extractors", "runs", "sweeps"}
    assert client.find(f"{bucket}mlflow")
