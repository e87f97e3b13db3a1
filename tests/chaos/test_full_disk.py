"""A disk that fills up during a run: one line reports it, no partial file stays, and the run can be resumed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.training.train import train
from gen_ray.errors import RunError
from gen_ray.experiment import Experiment
from gen_ray.storage import manifest
from tests.chaos.runs import long_experiment, newest_step, only_row, undisturbed_weights
from tests.cluster.tiny_runs import same, weights

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system"),
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(480, method="thread"),
]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a separate file system of 2 MB, or of the size that the test sets."""
    size = getattr(request, "param", "2m")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def filled_up_after(step: int, disk: Path, experiment: Experiment) -> Iterator[Path]:
    """During the block, fill the disk as soon as a checkpoint passes the step; yield the file that fills it."""
    over, filler = Event(), disk / "filler"

    def fill() -> None:
        while newest_step(experiment) < step:
            if over.wait(0.01):
                return
        with suppress(OSError), filler.open("wb") as stream:  # the write ends when the disk is full
            while not over.is_set():
                stream.write(bytes(4096))
                stream.flush()

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        yield filler
    finally:
        over.set()
        thread.join()


def test_a_full_disk_is_named_and_leaves_the_newest_checkpoint(small_disk: Path, storage: Path, tmp_path: Path) -> None:
    elsewhere = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "full"}
    experiment = long_experiment(small_disk, "full", tracking=elsewhere)
    prepare_data(experiment)
    with (
        filled_up_after(40, small_disk, experiment) as filler,
        pytest.raises(RunError, match=rf"{small_disk}.*disk full") as excinfo,
    ):
        train(experiment)
    assert "\n" not in str(excinfo.value) and excinfo.value.reason == "disk_full"
    row = only_row(experiment)
    assert (row.status, row.tags["reason"]) == ("FAILED", "disk_full")
    home = small_disk / "runs" / row.run_id / "checkpoints"
    remaining = sorted(home.iterdir())
    assert all(folder.name.startswith("step-") for folder in remaining)  # no partial checkpoints
    assert newest_step(experiment) >= 40
    manifest.verify(remaining[-1])
    filler.unlink()
    done = train(experiment, resume=True)
    assert same(weights(done.artifact), undisturbed_weights(storage)) and only_row(experiment).status == "FINISHED"


@pytest.mark.soak
@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
def test_mlflow_on_the_same_full_disk_does_not_hide_the_line(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this case MLflow cannot be updated either: the next process that opens the store closes the run."""
    monkeypatch.setattr("gen_ray.cluster.tracking.logger_actor.DRAIN_SECONDS", 5.0)
    experiment = long_experiment(small_disk, "both", tracking={"experiment": "both"})
    prepare_data(experiment)
    with (
        filled_up_after(40, small_disk, experiment) as filler,
        pytest.raises(RunError, match=rf"{small_disk}.*disk full"),
    ):
        train(experiment)
    filler.unlink()
    train(experiment, resume=True)
    assert only_row(experiment).status == "FINISHED"
