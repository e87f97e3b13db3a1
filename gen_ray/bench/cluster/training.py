"""Training benchmarks that run in Ray Train workers with their data path and session."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train

from gen_ray import run_directory
from gen_ray.bench.baselines import alternate, ingest
from gen_ray.cluster.data.blocks import cached
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.nodes.connect import connected
from gen_ray.cluster.tracking.logger_actor import RunLogger, start
from gen_ray.cluster.training.trainer import trainer, user_error
from gen_ray.cluster.training.worker import open_session
from gen_ray.configuration import yaml12
from gen_ray.engine.training.loop import steps
from gen_ray.engine.training.step import TrainState
from gen_ray.errors import RunError
from gen_ray.experiment import Experiment
from gen_ray.metrics import EVALUATION_MINUTES, TRAINING_MINUTES
from gen_ray.sweeps.config import load
from gen_ray.sweeps.points import predetermined_points
from gen_ray.sweeps.study import Study


def train_rates(experiment: Experiment, *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Return images per second of the bare loop and of the project's loop, alternating inside one Ray Train worker."""
    with connected(experiment.scaling):
        return on_workers(experiment, _measure_loops, rounds=rounds, steps=steps)


def ingest_rates(experiment: Experiment, *, rounds: int, steps: int) -> dict[str, Any]:
    """Return the fields of IngestRates for both values of data.cache, measured inside one Ray Train worker."""
    with connected(experiment.scaling):
        return on_workers(experiment, _measure_ingest, rounds=rounds, steps=steps)


def scaling_rates(experiments: list[Experiment], *, rounds: int, steps: int) -> list[list[float]]:
    """Return images per second of each experiment in each round; the experiments alternate."""
    rates: list[list[float]] = [[] for _ in experiments]
    with connected(max((e.scaling for e in experiments), key=lambda scaling: scaling.most_workers)):
        for _ in range(rounds):
            for experiment, measured in zip(experiments, rates, strict=True):
                measured.append(on_workers(experiment, _measure_steps, steps=steps))
    return rates


@dataclass(frozen=True, kw_only=True)
class SweepTimes:
    """Seconds of a sweep, of each of its trainings run separately, and of each trial's overhead."""

    sweep: float
    trainings: list[float]
    overheads: list[float]


def sweep_times(file: Path, overrides: list[str], folder: Path) -> SweepTimes:
    """Time a sweep, and its trainings as separate commands on all cores, half of them before and half after it."""
    sweep_overrides = [*overrides, f"storage.root={folder}"]
    plan, configs = load(file, sweep_overrides), list[Path]()
    for point in predetermined_points(plan) or plan.corners():
        raw = plan.experiment(point).resolved()
        raw["scaling"]["cpus_per_worker"] = "auto"
        configs.append(folder / f"{len(configs)}.yaml")
        configs[-1].write_text(yaml12.dump(raw), encoding="utf-8")
    _command("train", configs[0], "training.epochs=1")  # prepares the shared data
    half = len(configs) // 2
    trainings = [_command("train", config) for config in configs[:half]]
    sweep_seconds = _command("sweep", file, *sweep_overrides)
    trainings += [_command("train", config) for config in configs[half:]]
    [sweep_folder] = run_directory.named(plan.sweep.name, folder / "sweeps")
    work = (TRAINING_MINUTES.name, EVALUATION_MINUTES.name)
    results = Study(plan, sweep_folder).results()
    overheads = [result.seconds - 60 * sum(result.metrics[name] for name in work) for result in results]
    return SweepTimes(sweep=sweep_seconds, trainings=trainings, overheads=overheads)


def _command(verb: str, *arguments: Path | str) -> float:
    """Return the seconds of a gen-ray command. Raise RunError if it fails."""
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", f"pipelines.{verb}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if process.returncode:
        raise RunError(f"{verb} {arguments[0]}: {process.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - began


def on_workers(experiment: Experiment, work: Callable[[dict[str, Any]], Any], **extra: int) -> Any:
    """Run work on the workers of a training; return rank 0's result."""
    prepared = prepare_data(experiment)
    experiment.model(prepared.spec)
    logger = RunLogger(start(None, experiment.storage.root), "bench")
    try:
        return trainer(experiment, prepared, logger, work, cached(experiment, prepared), **extra).fit().return_value
    except ray.train.TrainingFailedError as error:
        raise user_error(error) from error


def _measure_loops(task: dict[str, Any]) -> dict[str, list[float]]:
    experiment, family, session = open_session(task)
    return asdict(alternate(experiment, family, session, rounds=task["rounds"], steps=task["steps"]))


def _measure_ingest(task: dict[str, Any]) -> dict[str, Any]:
    experiment, family, session = open_session({**task, "cache": True})
    _, _, streaming = open_session({**task, "cache": False})
    data_paths = {"memory": session.batches("train"), "stream": streaming.batches("train")}
    return asdict(ingest(experiment, family, session, data_paths, rounds=task["rounds"], steps=task["steps"]))


def _measure_steps(task: dict[str, Any]) -> float:
    """Return images per second of all workers together, after a warm-up of half as many steps."""
    experiment, family, session = open_session(task)
    warm_up, size = task["steps"] // 2, experiment.data.batch_size
    state = TrainState(family, experiment.training, session, warm_up + task["steps"])
    loop = steps(state, session.batches("train"), size, first=0)
    for _ in range(warm_up):
        next(loop)
    began = time.perf_counter()
    for _ in loop:
        pass
    return task["steps"] * size / (time.perf_counter() - began)
