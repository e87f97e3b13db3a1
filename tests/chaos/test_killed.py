"""Workers and controllers that are killed at any moment: the run continues and ends with the same result.

Only processes of this session's Ray are killed; they are found among the descendants of this process.
"""

import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from gen_ray import run_directory
from gen_ray.cluster.training.train import train
from gen_ray.errors import RunError
from gen_ray.experiment import Experiment
from gen_ray.storage import manifest
from tests.chaos.runs import FAMILIES, long_experiment, newest_step, only_row, partial_folders, undisturbed_weights
from tests.cluster.tiny_runs import same, weights

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(480, method="thread")]


def ray_processes(name: str) -> list[psutil.Process]:
    """Return this session's Ray processes of a name."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith(f"ray::{name}"):
                found.append(child)
        except psutil.NoSuchProcess:
            pass  # the process ended meanwhile
    return found


RANK, CONTROLLER = "RayTrainWorker", "TrainController"


@contextmanager
def kill_at_steps(
    experiment: Experiment, at: list[tuple[int, str]], how: int = signal.SIGKILL, seed: int = 0
) -> Iterator[list[int]]:
    """During the block, signal a random process of a name each time a checkpoint passes one of the steps."""
    struck: list[int] = []
    over, rng = Event(), random.Random(seed)

    def strike() -> None:
        for step, name in at:
            while newest_step(experiment) < step or not (found := ray_processes(name)):
                if over.wait(0.02):
                    return
            time.sleep(rng.random() * 0.05)  # at any time within a step or its saving
            rng.choice(found).send_signal(how)
            struck.append(step)

    thread = Thread(target=strike, daemon=True)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("family", "ranks", "controllers"),
    [
        pytest.param("vae", [20], [45], id="once"),
        *[pytest.param(name, [20, 50, 80], range(10, 135, 25), id=name, marks=pytest.mark.soak) for name in FAMILIES],
    ],
)
def test_a_run_whose_ranks_and_controller_are_killed_ends_with_the_same_result(
    family: str, ranks: Sequence[int], controllers: Sequence[int], storage: Path
) -> None:
    """Each process is killed within milliseconds of the saving of a checkpoint."""
    part = list(FAMILIES).index(family)
    instants = sorted([*((step, RANK) for step in ranks), *((step + part, CONTROLLER) for step in controllers)])
    name = f"killed-{len(instants)}-{family.replace('_', '-')}"
    experiment = long_experiment(storage, name, family, max_failures=8)
    with kill_at_steps(experiment, instants, seed=part) as struck:
        done = train(experiment)
    assert struck == [step for step, _ in instants]
    assert same(weights(done.artifact), undisturbed_weights(storage, family))
    row = only_row(experiment)
    assert (
        row.status == "FINISHED" and row.metrics["train/steps"] == 12 * 1462 // 128 and not partial_folders(experiment)
    )


def test_a_rank_that_hangs_is_found_and_replaced(storage: Path) -> None:
    experiment = long_experiment(storage, "hanging", hang_seconds=5)
    with kill_at_steps(experiment, [(60, RANK)], signal.SIGSTOP) as struck:
        done = train(experiment)
    assert struck == [60] and same(weights(done.artifact), undisturbed_weights(storage))


@pytest.mark.soak
def test_a_failed_run_keeps_its_newest_checkpoint_and_resumes_from_it(storage: Path) -> None:
    experiment = long_experiment(storage, "given-up", max_failures=1)
    with kill_at_steps(experiment, [(30, RANK), (70, RANK)]), pytest.raises(RunError):
        train(experiment)
    row, step = only_row(experiment), newest_step(experiment)
    assert row.status == "FAILED" and step >= 70
    manifest.verify(run_directory.folder(experiment, row.run_id) / "checkpoints" / f"step-{step:09d}")
    done = train(experiment, resume=True)
    assert same(weights(done.artifact), undisturbed_weights(storage)) and only_row(experiment).status == "FINISHED"
