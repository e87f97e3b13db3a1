"""Scale on paper: what so many workers would do, from what one was measured to do and from what a link carries.

A step of W workers takes what the slowest resource leaves no room beside: each computes its share of the batch, and the
gradients go round a ring (Patarasuk & Yuan 2009), as far as that cannot happen while the backward pass still runs.
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
from gen_ray.datasets.shards import storage_dtype
from gen_ray.engine.training.checkpoint_store import CheckpointStore
from gen_ray.engine.training.session import LocalSession
from gen_ray.engine.training.step import TrainState
from gen_ray.experiment import Experiment
from gen_ray.family import Family
from gen_ray.maths import power_ema

BUCKET = 25 * 2**20
"""Bytes of gradients that DDP sends together; the last bucket is ready only when the backward pass is over."""
BACKWARD = 2 / 3
"""Of a step's computation, under which gradients can be sent: backward is twice the work of forward."""
WORTH = 1.3
"""Twice the workers have to be so many times as fast, or they are better used for another run."""
ROUND_SECONDS = 1.0


@dataclass(frozen=True)
class StepCost:
    """Seconds that one worker takes for a step: fixed, and so much more for each row of its share of the batch."""

    fixed: float
    per_row: float

    @classmethod
    def fit(cls, seconds: Mapping[float, float]) -> "StepCost":
        """Return the line through seconds by rows, nothing below zero; through one point it goes from the origin."""
        rows, taken = np.array(list(seconds)), np.array(list(seconds.values()))
        if len(rows) == 1:
            return cls(0.0, float(taken[0] / rows[0]))
        # Relative errors count: a tenth of a small step is as wrong as a tenth of a large one.
        design = np.stack([np.ones_like(rows, dtype=float), rows], 1) / taken[:, None]
        fixed, per_row = np.linalg.lstsq(design, np.ones_like(taken), rcond=None)[0]
        if fixed < 0:
            return cls(0.0, float(np.mean(taken / rows)))
        return cls(float(fixed), float(max(per_row, 0.0)))

    def __call__(self, rows: float) -> float:
        """Return the seconds of a step with so many rows."""
        return self.fixed + self.per_row * rows


@dataclass(frozen=True)
class NetworkLink:
    """What joins two workers: gigabits a second, and seconds until a message of nothing arrives."""

    gbps: float
    latency: float

    def all_reduce(self, size: float, workers: int) -> float:
        """Return the seconds in which a ring sums size bytes of each: 2(W−1) hops of a W-th each."""
        if workers == 1:
            return 0.0
        hops = 2 * (workers - 1)
        return hops * (self.latency + size / workers / (self.gbps * 1e9 / 8))


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The machines: how many workers each has, how they are joined, and the cores where they share them."""

    per_node: int
    within: NetworkLink
    between: NetworkLink
    threads: int = 1
    cores: int | None = None
    """None: every worker has a GPU to itself, and nothing of it is shared."""
    crowded: float = 1.0
    """How many times longer a worker computes while all cores do: they share memory, caches and heat."""

    def crowding(self, workers: int) -> float:
        """Return how many times longer a worker computes for its neighbours: they share, or take turns."""
        if self.cores is None:
            return 1.0
        here, places = min(workers, self.per_node), self.cores / self.threads
        full = min(1.0, (here - 1) / (places - 1)) if places > 1 else 1.0
        return (1 + (self.crowded - 1) * full) * max(1.0, here / places)


@dataclass(frozen=True, kw_only=True)
class RunWorkload:
    """What a run asks for, in bytes and rows."""

    batch: int
    rows: int
    row_bytes: int
    gradient_bytes: int
    state_bytes: int
    """Of weights, gradients, both moments of AdamW and all averages: what each worker holds beside activations."""
    checkpoint_bytes: int
    kept_bytes: int
    """Of the checkpoints, averages and artifact that a finished run keeps."""

    @classmethod
    def of(cls, experiment: Experiment, prepared: Prepared, net: nn.Module) -> "RunWorkload":
        """Return the load of an experiment on its data."""
        training = experiment.training
        weights = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
        gradients = sum(p.numel() * p.element_size() for p in net.parameters())
        averages = 1 + (len(power_ema.GAMMAS) if training.ema_snapshots else 0)
        checkpoint = weights * (1 + averages) + 2 * gradients
        shelf = CheckpointStore(prepared.folder)
        snapshots = training.ema_snapshots * len(power_ema.GAMMAS) * weights
        return cls(
            batch=experiment.data.batch_size,
            rows=prepared.rows["train"],
            row_bytes=prepared.spec.dims * storage_dtype(prepared.spec.levels).itemsize,
            gradient_bytes=gradients,
            state_bytes=weights * (1 + averages) + 3 * gradients,
            checkpoint_bytes=checkpoint,
            kept_bytes=(shelf.newest + shelf.best) * checkpoint + snapshots + weights,
        )


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What so many workers would do."""

    workers: int
    rows_a_worker: float
    compute_seconds: float
    waiting_seconds: float
    """For gradients, beyond what goes on under the backward pass."""
    images_per_second: float
    efficiency: float
    """Of a worker, against one that is alone."""
    epoch_seconds: float
    ingest_bytes_per_second: float
    """Of all workers together, in stored form."""


def forecast(pace: StepCost, load: RunWorkload, site: Topology, workers: int) -> Forecast:
    """Return what so many workers would do with the run's own batch, each having its share of the rows."""
    rows = load.batch / workers
    compute = pace(rows) * site.crowding(workers)
    link = site.within if workers <= site.per_node else site.between
    last = link.all_reduce(min(load.gradient_bytes, BUCKET), workers)
    waiting = max(last, link.all_reduce(load.gradient_bytes, workers) - BACKWARD * compute)
    waiting += link.all_reduce(4 * (1 + workers), workers)  # the flags that all agree by, whether to go on
    rate = load.batch / (compute + waiting)
    alone = load.batch / pace(load.batch)
    return Forecast(
        workers=workers,
        rows_a_worker=rows,
        compute_seconds=compute,
        waiting_seconds=waiting,
        images_per_second=rate,
        efficiency=rate / (alone * workers),
        epoch_seconds=load.rows / rate,
        ingest_bytes_per_second=rate * load.row_bytes,
    )


def doubling(most: int) -> list[int]:
    """Return 1, 2, 4 … as far as most."""
    return [2**k for k in range(most.bit_length())]


def shares(batch: int, most: int) -> list[int]:
    """Return the rows that each of 1, 2, 4 … most workers would have of a batch."""
    return [max(1, batch // workers) for workers in doubling(most)]


def possible(batch: int, accumulate: int, most: int) -> list[int]:
    """Return the numbers of workers, doubling from one, and most itself, among which a batch can be divided."""
    wanted = sorted({*doubling(most), most})
    return [workers for workers in wanted if batch % (workers * accumulate) == 0]


def worthwhile(forecasts: Sequence[Forecast]) -> int:
    """Return the number of workers after which twice as many are less than 1.3 times as fast."""
    for fewer, more in pairwise(forecasts):
        doublings = math.log2(more.workers / fewer.workers)
        if (more.images_per_second / fewer.images_per_second) ** (1 / doublings) < WORTH:
            return fewer.workers
    return forecasts[-1].workers


def paces(
    experiment: Experiment, family: Family, x: torch.Tensor, sizes: Iterable[int], *, device: torch.device, rounds: int
) -> dict[float, float]:
    """Return the median seconds of a training step in this process by the rows it has, sizes in turn in each round."""
    learner = TrainState(family, experiment.training, LocalSession({}, device=device), 10**9)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    step = 0
    for number in range(rounds + 1):
        for size, found in seconds.items():
            micros = list(x[:size].split(max(1, size // experiment.training.accumulate)))
            began, taken = time.perf_counter(), 0
            while time.perf_counter() - began < ROUND_SECONDS or not taken:
                learner.step(micros, step)
                step, taken = step + 1, taken + 1
            if number:  # the first round warms up
                found.append((time.perf_counter() - began) / taken)
    return {size: median(found) for size, found in seconds.items()}
