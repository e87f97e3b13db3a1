"""Measurements that need the street itself: the same worker, the same data path, the same session as a training run."""

from typing import Any

import ray
import ray.train

from gen_ray.cluster.connect import connected
from gen_ray.cluster.train import prepare_data, spoken, trainer
from gen_ray.cluster.worker import open_session
from gen_ray.engine.bench import alternate
from gen_ray.experiment import Experiment


class _Silent:
    """A tracker that a benchmark can talk to: it counts calls and writes nothing."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Take metrics."""

    def progress(self, done: int, total: int) -> None:
        """Take progress."""

    def flush(self) -> None:
        """Answer."""


def train_rates(experiment: Experiment, *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Return images per second of the bare loop and of ours, alternating inside one Ray Train worker."""
    prepared = prepare_data(experiment)
    experiment.model(prepared.spec)
    with connected(experiment.scaling):
        tracker = ray.remote(_Silent).options(num_cpus=0).remote()
        fit = trainer(experiment, prepared, "bench", tracker, _work, rounds=rounds, steps=steps)
        try:
            return fit.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise spoken(error) from error


def _work(task: dict[str, Any]) -> dict[str, list[float]]:
    experiment, family, session = open_session(task)
    rates = alternate(experiment, family, session, rounds=task["rounds"], steps=task["steps"])
    return {"bare": rates.bare, "ours": rates.ours}
