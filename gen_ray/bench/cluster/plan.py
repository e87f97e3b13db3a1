"""Check of the scaling model on this machine: measured rates of several workers against their forecasts."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from gen_ray.bench.cluster.training import on_workers, scaling_rates
from gen_ray.bench.planner import (
    Forecast,
    NetworkLink,
    RunWorkload,
    StepCost,
    Topology,
    forecast,
    measure_step_seconds,
    rows_per_worker,
)
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.nodes.connect import connected
from gen_ray.cluster.training.worker import open_session
from gen_ray.engine.training.batches import rows_of_rank
from gen_ray.experiment import Experiment, parse

TIMES = 30


@dataclass(frozen=True)
class CheckedForecast:
    """A forecast, and the measured images per second of each round."""

    forecast: Forecast
    measured: list[float]

    @property
    def ratio(self) -> float:
        """Return the measured rate divided by the forecast."""
        return median(self.measured) / self.forecast.images_per_second


def check(experiment: Experiment, numbers: Sequence[int], *, rounds: int, steps: int) -> list[CheckedForecast]:
    """Return forecasts and measured rates for numbers of single-threaded workers on this machine."""
    experiments = {number: _with_workers(experiment, number) for number in {1, 2, *numbers}}
    prepared = prepare_data(experiment)
    workload = RunWorkload.of(experiment, prepared, experiment.model(prepared.spec).build_net())
    cores = os.cpu_count() or 1
    full = max(number for number in experiments if number <= cores)
    with connected(experiments[max(experiments)].scaling):
        single, all_cores = (
            on_workers(experiments[number], _measure_step_seconds, most=max(numbers), rounds=rounds)
            for number in (1, full)
        )
        within = NetworkLink(*on_workers(experiments[2], _measure_link, size=workload.gradient_bytes // 4))
        rates = scaling_rates([experiments[number] for number in numbers], rounds=rounds, steps=steps)
    share = experiment.data.batch_size // full
    contention = all_cores[share] / single[share] if share in single else 1.0
    topology = Topology(
        per_node=max(numbers), within=within, between=within, threads=1, cores=cores, contention=contention
    )
    cost = StepCost.fit(single)
    forecasts = [forecast(cost, workload, topology, number) for number in numbers]
    return [CheckedForecast(forecast, measured) for forecast, measured in zip(forecasts, rates, strict=True)]


def _with_workers(experiment: Experiment, workers: int) -> Experiment:
    raw = experiment.resolved()
    raw["scaling"] |= {"num_workers": workers, "cpus_per_worker": 1}
    return parse(raw)


def _measure_step_seconds(task: dict[str, Any]) -> dict[float, float]:
    """Return seconds per step by rows, without synchronisation, for the batch shares of 1, 2, 4 … workers."""
    experiment, family, session = open_session(task)
    x = rows_of_rank(session.batches("train"), session.world_size, experiment.data.batch_size)
    sizes = rows_per_worker(experiment.data.batch_size, task["most"])
    return measure_step_seconds(experiment, family, x, sizes, device=session.device, rounds=task["rounds"])


def _measure_link(task: dict[str, Any]) -> tuple[float, float]:
    """Return gigabits per second and latency between two workers, from sums of one float and of size floats."""
    _, _, session = open_session(task)
    seconds = [_all_reduce_seconds(session, length) for length in (1, task["size"])]
    transfer_seconds = max(1e-9, seconds[1] - seconds[0])
    return 4 * task["size"] * 8 / transfer_seconds / 1e9, seconds[0] / 2


def _all_reduce_seconds(session: Any, length: int) -> float:
    values, seconds = torch.zeros(length, device=session.device), []
    for _ in range(TIMES):
        began = time.perf_counter()
        session.sum(values)
        seconds.append(time.perf_counter() - began)
    return median(seconds)
