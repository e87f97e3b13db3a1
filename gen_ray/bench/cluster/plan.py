"""What a plan is held against: the rates of so many workers of this machine, and what the plan makes of one of them."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from gen_ray.bench.cluster.training import on_workers, scaling_rates
from gen_ray.bench.planner import Forecast, NetworkLink, RunWorkload, StepCost, Topology, forecast, paces, shares
from gen_ray.cluster.nodes.connect import connected
from gen_ray.cluster.training.train import prepare_data
from gen_ray.cluster.training.worker import open_session
from gen_ray.engine.training.batches import own_rows
from gen_ray.experiment import Experiment, parse

TIMES = 30


@dataclass(frozen=True)
class CheckedForecast:
    """A forecast, and the images per second of each round that it is held against."""

    forecast: Forecast
    measured: list[float]

    @property
    def ratio(self) -> float:
        """Return what was measured, against what was forecast."""
        return median(self.measured) / self.forecast.images_per_second


def check(experiment: Experiment, numbers: Sequence[int], *, rounds: int, steps: int) -> list[CheckedForecast]:
    """Return forecasts for numbers of workers of one thread on this machine, and what these really do."""
    experiments = {number: _with(experiment, number) for number in {1, 2, *numbers}}
    prepared = prepare_data(experiment)
    load = RunWorkload.of(experiment, prepared, experiment.model(prepared.spec).build_net())
    cores = os.cpu_count() or 1
    full = max(number for number in experiments if number <= cores)
    with connected(experiments[max(experiments)].scaling):
        alone, among = (
            on_workers(experiments[number], _pacing, most=max(numbers), rounds=rounds) for number in (1, full)
        )
        within = NetworkLink(*on_workers(experiments[2], _linking, size=load.gradient_bytes // 4))
        rates = scaling_rates([experiments[number] for number in numbers], rounds=rounds, steps=steps)
    share = experiment.data.batch_size // full
    crowded = among[share] / alone[share] if share in alone else 1.0
    site = Topology(per_node=max(numbers), within=within, between=within, threads=1, cores=cores, crowded=crowded)
    pace = StepCost.fit(alone)
    return [
        CheckedForecast(forecast(pace, load, site, number), rate) for number, rate in zip(numbers, rates, strict=True)
    ]


def _with(experiment: Experiment, workers: int) -> Experiment:
    raw = experiment.resolved()
    raw["scaling"] |= {"num_workers": workers, "cpus_per_worker": 1}
    return parse(raw)


def _pacing(task: dict[str, Any]) -> dict[float, float]:
    """Return seconds by rows of a worker that waits for no other, for the shares that so many would have of a batch."""
    experiment, family, session = open_session(task)
    x = own_rows(session.batches("train"), session.world_size, experiment.data.batch_size)
    sizes = shares(experiment.data.batch_size, task["most"])
    return paces(experiment, family, x, sizes, device=session.device, rounds=task["rounds"])


def _linking(task: dict[str, Any]) -> tuple[float, float]:
    """Return gigabits a second and latency of what joins two workers, by sums of one float and of so many."""
    _, _, session = open_session(task)
    seconds = [_summed(session, length) for length in (1, task["size"])]
    each = max(1e-9, seconds[1] - seconds[0])
    return 4 * task["size"] * 8 / each / 1e9, seconds[0] / 2


def _summed(session: Any, length: int) -> float:
    values, taken = torch.zeros(length, device=session.device), []
    for _ in range(TIMES):
        began = time.perf_counter()
        session.sum(values)
        taken.append(time.perf_counter() - began)
    return median(taken)
