"""The list of measurements, in order of importance."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gen_ray.bench.gpu import batching, sampling, training
from gen_ray.bench.gpu.running import BenchTask
from gen_ray.bench.gpu.workloads import SAMPLERS, Size, Workload, workload
from gen_ray.errors import UserError

FIRST = "ddpm"
"""The family that is measured completely before the other families."""


def tasks(folder: Path, size: Size) -> list[BenchTask]:
    """Return the measurements of the experiments in a folder. Raise UserError if it has none."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise UserError(f"{folder}: contains no experiments; run the benchmark in a checkout of the project")
    workloads = sorted((workload(file, size) for file in files), key=lambda one: one.name != FIRST)
    by_kind = [_training(workloads, size), _sampling(workloads, size), _batching(workloads, size)]
    first = [of_kind[0] for of_kind in by_kind]
    return first + [task for of_kind in by_kind for task in of_kind[1:]]


def _training(workloads: Sequence[Workload], size: Size) -> list[BenchTask]:
    seconds = size.set_up_seconds + size.training_seconds
    return [
        BenchTask(kind="training", family=one.name, seconds=seconds, work=partial(training.measure, one, size))
        for one in workloads
    ]


def _sampling(workloads: Sequence[Workload], size: Size) -> list[BenchTask]:
    return [
        BenchTask(
            kind="sampling",
            family=one.name,
            seconds=size.set_up_seconds + size.sampling_seconds * len(SAMPLERS[one.name]) * len(size.batches),
            work=partial(sampling.measure, one, size),
        )
        for one in workloads
    ]


def _batching(workloads: Sequence[Workload], size: Size) -> list[BenchTask]:
    seconds = size.set_up_seconds + size.batching_seconds
    return [
        BenchTask(kind="batching", family=one.name, seconds=seconds, work=partial(batching.measure, one, size))
        for one in workloads
    ]
