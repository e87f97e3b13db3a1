"""A disk that fills up while a run saves: one line tells it, nothing stays half written, with room the run goes on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from gen_ray import manifest
from gen_ray.cluster.train import prepare_data, train
from gen_ray.errors import RunError
from tests.chaos.runs import long, newest, the_row, undisturbed
from tests.cluster.street import same, weights

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("cluster"), pytest.mark.timeout(240, method="thread")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of its own of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_named_and_leaves_the_newest_checkpoint(small_disk: Path, storage: Path, tmp_path: Path) -> None:
    elsewhere = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "full"}
    experiment = long(small_disk, "full", tracking=elsewhere)
    prepare_data(experiment)
    over, filler = Event(), small_disk / "filler"

    def fill() -> None:
        while newest(experiment) < 40:
            if over.wait(0.01):
                return
        with filler.open("wb") as stream:
            try:
                while not over.is_set():
                    stream.write(bytes(4096))
                    stream.flush()
            except OSError:  # full, which is the purpose
                pass

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        with pytest.raises(RunError, match=rf"{small_disk}.*disk full") as told:
            train(experiment)
    finally:
        over.set()
        thread.join()
    assert "\n" not in str(told.value) and told.value.reason == "disk_full"
    row = the_row(experiment)
    assert (row.status, row.tags["reason"]) == ("FAILED", "disk_full")
    home = small_disk / "runs" / row.run_id / "checkpoints"
    kept = sorted(home.iterdir())
    assert [folder.name[:5] for folder in kept] == ["step-"] * len(kept) and newest(experiment) >= 40  # no orphans
    manifest.verify(kept[-1])
    filler.unlink()
    done = train(experiment, resume=True)
    assert same(weights(done.artifact), undisturbed(storage)) and the_row(experiment).status == "FINISHED"
