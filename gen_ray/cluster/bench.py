"""Measurements that need the street itself: the same worker, the same data path, the same session as a training run."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray.train

from gen_ray.cluster.attempts import spoken, trainer
from gen_ray.cluster.connect import connected
from gen_ray.cluster.data import cached
from gen_ray.cluster.tracker import Track, start
from gen_ray.cluster.train import prepare_data
from gen_ray.cluster.worker import open_session
from gen_ray.engine.bench import alternate, ingest
from gen_ray.engine.loop import steps
from gen_ray.engine.step import Learner
from gen_ray.experiment import Experiment


def train_rates(experiment: Experiment, *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Return images per second of the bare loop and of ours, alternating inside one Ray Train worker."""
    with connected(experiment.scaling):
        return _on_workers(experiment, _alternating, rounds=rounds, steps=steps)


def ingest_rates(experiment: Experiment, *, rounds: int, steps: int) -> dict[str, Any]:
    """Return engine.bench.Ingest's fields for the two values of data.cache, measured inside one Ray Train worker."""
    with connected(experiment.scaling):
        return _on_workers(experiment, _ingesting, rounds=rounds, steps=steps)


def scaling_rates(experiments: list[Experiment], *, rounds: int, steps: int) -> list[list[float]]:
    """Return images per second of each experiment in each round; they run one after the other, round after round."""
    rates: list[list[float]] = [[] for _ in experiments]
    with connected(max((e.scaling for e in experiments), key=lambda scaling: scaling.num_workers)):
        for _ in range(rounds):
            for experiment, found in zip(experiments, rates, strict=True):
                found.append(_on_workers(experiment, _stepping, steps=steps))
    return rates


def _on_workers(experiment: Experiment, work: Callable[[dict[str, Any]], Any], **extra: int) -> Any:
    """Return what rank 0 returns of work."""
    prepared = prepare_data(experiment)
    experiment.model(prepared.spec)
    track = Track(start(None, experiment.storage.root), "bench")
    try:
        return trainer(experiment, prepared, track, work, cached(experiment, prepared), **extra).fit().return_value
    except ray.train.TrainingFailedError as error:
        raise spoken(error) from error


def _alternating(task: dict[str, Any]) -> dict[str, list[float]]:
    experiment, family, session = open_session(task)
    return asdict(alternate(experiment, family, session, rounds=task["rounds"], steps=task["steps"]))


def _ingesting(task: dict[str, Any]) -> dict[str, Any]:
    experiment, family, session = open_session({**task, "cache": True})
    _, _, streaming = open_session({**task, "cache": False})
    ways = {"memory": session.batches("train"), "stream": streaming.batches("train")}
    return asdict(ingest(experiment, family, session, ways, rounds=task["rounds"], steps=task["steps"]))


def _stepping(task: dict[str, Any]) -> float:
    """Return images per second of all workers together, after half as many steps to warm up."""
    experiment, family, session = open_session(task)
    warm, size = task["steps"] // 2, experiment.data.batch_size
    learner = Learner(family, experiment.training, session, warm + task["steps"])
    taken = steps(learner, session.batches("train"), size, first=0)
    for _ in range(warm):
        next(taken)
    began = time.perf_counter()
    for _ in taken:
        pass
    return task["steps"] * size / (time.perf_counter() - began)
