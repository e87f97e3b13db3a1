"""Scaling model: forecasts the throughput of W workers from one worker's measured speed and a network link.

A worker's step computes its share of the batch. The gradients go round a ring (Patarasuk & Yuan 2009), partly while
the backward pass still runs. The step takes as long as the slowest resource.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from torch import nn

from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.training.checkpoint_store import CheckpointStore
from gen_ray.engine.training.session import LocalSession
from gen_ray.engine.training.step import TrainState
from gen_ray.experiment import Experiment
from gen_ray.family import Family
from gen_ray.maths import power_ema

DDP_BUCKET_BYTES = 25 * 2**20
"""Bytes of a DDP gradient bucket; the last bucket is ready only at the end of the backward pass."""
OVERLAP_SHARE = 2 / 3
"""Fraction of a step's computation during which gradients can be sent: backward is twice the work of forward."""
MIN_SPEED_UP = 1.3
"""Minimum speed-up by doubling the workers; with less, the workers are better used for another run."""
ROUND_SECONDS = 1.0


@dataclass(frozen=True)
class StepCost:
    """Seconds of one worker's step: a fixed part, and a part per row of its share of the batch."""

    fixed: float
    per_row: float

    @classmethod
    def fit(cls, seconds: Mapping[float, float]) -> "StepCost":
        """Return the non-negative least-squares line through seconds by rows; through the origin for one point."""
        rows, times = np.array(list(seconds)), np.array(list(seconds.values()))
        if len(rows) == 1:
            return cls(0.0, float(times[0] / rows[0]))
        # Relative errors: 10 % of a small step is as wrong as 10 % of a large one.
        design = np.stack([np.ones_like(rows, dtype=float), rows], 1) / times[:, None]
        fixed, per_row = np.linalg.lstsq(design, np.ones_like(times), rcond=None)[0]
        if fixed < 0:
            return cls(0.0, float(np.mean(times / rows)))
        return cls(float(fixed), float(max(per_row, 0.0)))

    def __call__(self, rows: float) -> float:
        """Return the seconds of a step with this number of rows."""
        return self.fixed + self.per_row * rows


@dataclass(frozen=True)
class NetworkLink:
    """A link between two workers: gigabits per second, and seconds of latency."""

    gbps: float
    latency: float

    def all_reduce(self, size: float, workers: int) -> float:
        """Return the seconds of a ring all-reduce of size bytes per worker: 2(W−1) hops of size / W bytes."""
        if workers == 1:
            return 0.0
        hops = 2 * (workers - 1)
        return hops * (self.latency + size / workers / (self.gbps * 1e9 / 8))


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The machines: workers per node, links within and between nodes, and the cores that workers share."""

    per_node: int
    within: NetworkLink
    between: NetworkLink
    threads: int = 1
    cores: int | None = None
    """None: every worker has its own GPU and shares nothing."""
    contention: float = 1.0
    """Factor by which computing slows down when all cores are busy, because they share memory, caches and heat."""

    def slowdown(self, workers: int) -> float:
        """Return the slow-down factor of a worker's computing by the other workers on its node."""
        if self.cores is None:
            return 1.0
        busy, slots = min(workers, self.per_node), self.cores / self.threads
        full = min(1.0, (busy - 1) / (slots - 1)) if slots > 1 else 1.0
        return (1 + (self.contention - 1) * full) * max(1.0, busy / slots)


@dataclass(frozen=True, kw_only=True)
class RunWorkload:
    """A run's workload in rows and bytes."""

    batch: int
    rows: int
    row_bytes: int
    gradient_bytes: int
    state_bytes: int
    """Weights, gradients, both AdamW moments and all averages: what each worker holds in addition to activations."""
    checkpoint_bytes: int
    kept_bytes: int
    """Checkpoints, snapshots and artifact that a finished run keeps."""

    @classmethod
    def of(cls, experiment: Experiment, prepared: Prepared, net: nn.Module) -> "RunWorkload":
        """Return the workload of an experiment on its data."""
        training = experiment.training
        weights = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
        gradients = sum(p.numel() * p.element_size() for p in net.parameters())
        averages = 1 + (len(power_ema.GAMMAS) if training.ema_snapshots else 0)
        checkpoint = weights * (1 + averages) + 2 * gradients
        store = CheckpointStore(prepared.folder)
        snapshots = training.ema_snapshots * len(power_ema.GAMMAS) * weights
        return cls(
            batch=experiment.data.batch_size,
            rows=prepared.rows["train"],
            row_bytes=prepared.spec.dims * prepared.spec.storage_dtype.itemsize,
            gradient_bytes=gradients,
            state_bytes=weights * (1 + averages) + 3 * gradients,
            checkpoint_bytes=checkpoint,
            kept_bytes=(store.keep_last + store.keep_best) * checkpoint + snapshots + weights,
        )


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecast for a number of workers."""

    workers: int
    rows_a_worker: float
    compute_seconds: float
    waiting_seconds: float
    """Seconds of waiting for gradients that do not overlap with the backward pass."""
    images_per_second: float
    efficiency: float
    """Throughput per worker relative to a single worker."""
    epoch_seconds: float
    ingest_bytes_per_second: float
    """Bytes per second of all workers together, in stored form."""


def forecast(cost: StepCost, workload: RunWorkload, topology: Topology, workers: int) -> Forecast:
    """Return the forecast for workers that divide the run's batch equally."""
    rows = workload.batch / workers
    compute = cost(rows) * topology.slowdown(workers)
    link = topology.within if workers <= topology.per_node else topology.between
    last = link.all_reduce(min(workload.gradient_bytes, DDP_BUCKET_BYTES), workers)
    waiting = max(last, link.all_reduce(workload.gradient_bytes, workers) - OVERLAP_SHARE * compute)
    waiting += link.all_reduce(4 * (1 + workers), workers)  # the flags by which all ranks agree to continue
    rate = workload.batch / (compute + waiting)
    single = workload.batch / cost(workload.batch)
    return Forecast(
        workers=workers,
        rows_a_worker=rows,
        compute_seconds=compute,
        waiting_seconds=waiting,
        images_per_second=rate,
        efficiency=rate / (single * workers),
        epoch_seconds=workload.rows / rate,
        ingest_bytes_per_second=rate * workload.row_bytes,
    )


def powers_of_two(most: int) -> list[int]:
    """Return the powers of two 1, 2, 4 … up to most."""
    return [2**k for k in range(most.bit_length())]


def rows_per_worker(batch: int, most: int) -> list[int]:
    """Return a worker's rows of a batch for 1, 2, 4 … most workers."""
    return [max(1, batch // workers) for workers in powers_of_two(most)]


def valid_worker_counts(batch: int, accumulation_steps: int, most: int) -> list[int]:
    """Return the worker counts 1, 2, 4 … and most that divide the batch, including accumulation."""
    counts = sorted({*powers_of_two(most), most})
    return [workers for workers in counts if batch % (workers * accumulation_steps) == 0]


def worthwhile_workers(forecasts: Sequence[Forecast]) -> int:
    """Return the number of workers beyond which doubling speeds up less than MIN_SPEED_UP."""
    for fewer, more in pairwise(forecasts):
        doublings = math.log2(more.workers / fewer.workers)
        if (more.images_per_second / fewer.images_per_second) ** (1 / doublings) < MIN_SPEED_UP:
            return fewer.workers
    return forecasts[-1].workers


def measure_step_seconds(
    experiment: Experiment, family: Family, x: torch.Tensor, sizes: Iterable[int], *, device: torch.device, rounds: int
) -> dict[float, float]:
    """Return the median seconds of a training step in this process by batch size; sizes alternate in each round."""
    state = TrainState(family, experiment.training, LocalSession({}, device=device), 10**9)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    step = 0
    for number in range(rounds + 1):
        for size, times in seconds.items():
            micros = list(x[:size].split(max(1, size // experiment.training.gradient_accumulation_steps)))
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < ROUND_SECONDS or not steps:
                state.step(micros, step)
                step, steps = step + 1, steps + 1
            if number:  # the first round warms up
                times.append((time.perf_counter() - began) / steps)
    return {size: median(times) for size, times in seconds.items()}
