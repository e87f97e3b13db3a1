"""Runs that stop at once: by the user, a loss that is not finite, or missing memory. The last checkpoint is kept."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import cloudpickle

from gen_ray import run_directory
from gen_ray.cluster.training.train import train
from gen_ray.errors import RunError
from gen_ray.storage import manifest
from tests.chaos.runs import long_experiment, newest_step, only_row, partial_folders, undisturbed_weights
from tests.cluster.tiny_runs import same, weights
from tests.conftest import ROOT

pytestmark = [pytest.mark.timed, pytest.mark.usefixtures("cluster"), pytest.mark.timeout(480, method="thread")]


def _failing(task: Mapping[str, Any], how: str, ledger: str) -> Any:
    """Train; rank 1 fails at step 20 and records the attempt in the ledger file."""
    import torch

    from gen_ray.cluster.training.worker import train_worker
    from gen_ray.engine.training.step import TrainState

    backward = TrainState._backward

    def faulty(self: TrainState, x: torch.Tensor, step: int, lane: int, *, last: bool) -> torch.Tensor:
        if self.session.rank != 1 or step != 20:
            return backward(self, x, step, lane, last=last)
        with Path(ledger).open("a") as file:
            file.write("once ")
        if how == "memory":
            raise torch.OutOfMemoryError("no room")
        return backward(self, x, step, lane, last=last) * float("nan")

    TrainState._backward = faulty  # type: ignore[method-assign]
    try:
        return train_worker(task)
    finally:
        TrainState._backward = backward  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("how", "line", "reason"),
    [
        pytest.param(
            "nan",
            r"not finite at step 20 on rank 1 \(vae\): nothing was updated",
            "non_finite",
            marks=pytest.mark.soak,
        ),
        ("memory", r"out of memory at data\.batch_size=128: lower it", "OutOfMemoryError"),
    ],
)
def test_a_permanent_failure_is_not_retried(
    how: str, line: str, reason: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ledger = str(tmp_path / "ledger")
    monkeypatch.setattr("gen_ray.cluster.training.trainer.train_worker", lambda task: _failing(task, how, ledger))
    experiment = long_experiment(storage, f"stopped-by-{how}")
    with pytest.raises(RunError, match=line) as excinfo:
        train(experiment)
    assert "\n" not in str(excinfo.value) and Path(ledger).read_text() == "once "
    row = only_row(experiment)
    assert (row.status, row.tags["reason"]) == ("FAILED", reason)
    assert newest_step(experiment) == 20 and not partial_folders(experiment)
    manifest.verify(run_directory.folder(experiment, row.run_id) / "checkpoints" / "step-000000020")
    monkeypatch.undo()
    done = train(experiment, resume=True)
    assert same(weights(done.artifact), undisturbed_weights(storage))


def test_a_terminated_command_saves_a_checkpoint_at_that_moment(storage: Path, tmp_path: Path) -> None:
    """SIGTERM as from ``ray job stop``. The run saves no other checkpoints, so a checkpoint is due to the signal."""
    experiment = long_experiment(storage, "terminated")
    training = experiment.training.model_copy(update={"epochs": 4000, "checkpoint_every_seconds": 1e6})
    file = tmp_path / "terminated.yaml"
    file.write_text(yaml.safe_dump(experiment.model_copy(update={"training": training}).resolved()))
    command = [sys.executable, "-m", "pipelines.train", file]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as driver:
        while not (rows := [row for row in _rows(experiment) if row.metrics.get("train/loss_nats")]):
            time.sleep(0.2)
        assert newest_step(experiment) == 0 and rows[0].status == "RUNNING"
        driver.send_signal(signal.SIGTERM)
        signalled_at = time.monotonic()
        assert driver.stderr is not None
        line = driver.stderr.read().splitlines()[-1]
        driver.wait(30)
    seconds = time.monotonic() - signalled_at
    step, row = newest_step(experiment), only_row(experiment)
    assert driver.returncode == 143 and line.startswith(f"error: stopped at step {step} of ") and "--resume" in line
    assert step > 0 and row.status == "KILLED" and seconds < 10, seconds
    manifest.verify(run_directory.folder(experiment, row.run_id) / "checkpoints" / f"step-{step:09d}")


def _rows(experiment: Any) -> list[Any]:
    from gen_ray.tracking.runs import rows
    from gen_ray.tracking.store import Store

    return rows(Store.of_experiment(experiment))
