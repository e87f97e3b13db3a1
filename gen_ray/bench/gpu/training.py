"""Training by the project's loop, against a bare PyTorch loop of the same net with the data on the device."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from gen_ray.bench.gpu import flops, memory, syncs
from gen_ray.bench.gpu.alternating import Conditions, Repeat, alternate, ratio
from gen_ray.bench.gpu.workloads import Size, Workload, parameters
from gen_ray.engine.inference.precision import autocast, precision_on
from gen_ray.engine.training.batches import InMemoryBatches
from gen_ray.engine.training.loop import steps
from gen_ray.engine.training.session import LocalSession
from gen_ray.engine.training.step import TrainState
from gen_ray.maths.noise import generator

MANY_STEPS = 10**9
"""Length in steps of the training whose first steps are measured."""
SYNC_STEPS = 3


def measure(workload: Workload, size: Size, conditions: Conditions) -> dict[str, Any]:
    """Return the figures of both loops: rate, utilisation, host syncs and memory."""
    device, settings = conditions.device, workload.experiment.training
    x = workload.examples(max(size.data_rows, workload.experiment.data.batch_size))
    loops: Mapping[str, Callable[[], Repeat]] = {
        "bare": lambda: bare_loop(workload, x, device),
        "gen_ray": lambda: project_loop(workload, x, device),
    }
    peaks = dict[str, dict[str, Any]]()
    for name, build in loops.items():
        peaks[name] = memory.peak(conditions, build)
        conditions.check()
    memory.release(device)
    example_flops = flops.of_training(workload, device)
    matmul, matmul_flops = flops.matmul(workload, size.matmul, device)
    sides = {name: build() for name, build in loops.items()}
    seconds = alternate(conditions, {**sides, "matmul": matmul}, seconds=size.training_seconds)
    peak_rates = [matmul_flops / step_seconds for step_seconds in seconds["matmul"]]
    batch = workload.experiment.data.batch_size
    return {
        "config": workload.experiment.name,
        "parameters": parameters(workload.net(device)),
        "batch": batch,
        "precision": precision_on(settings.precision, device),
        "rounds": len(peak_rates),
        "training_gflops_per_example": example_flops / 1e9,
        "peak_tflops": median(peak_rates) / 1e12,
        **{
            name: {
                **_rates(seconds[name], batch, batch * example_flops, peak_rates),
                "host_syncs": syncs.count(side, SYNC_STEPS, device),
                "memory": peaks[name],
            }
            for name, side in sides.items()
        },
        **ratio(seconds["bare"], seconds["gen_ray"]),
    }


def _rates(seconds: list[float], batch: int, step_flops: float, peak_rates: list[float]) -> dict[str, float]:
    utilisations = [step_flops / step_seconds / peak for step_seconds, peak in zip(seconds, peak_rates, strict=True)]
    return {
        "milliseconds_per_step": 1e3 * median(seconds),
        "examples_per_second": batch / median(seconds),
        "flop_utilisation": median(utilisations),
    }


def bare_loop(workload: Workload, x: Tensor, device: torch.device) -> Repeat:
    """Return a bare training loop on x (N, *shape), held on the device: no clipping, weight average, checks or logging.

    Net, loss, fused optimizer and precision are those of the experiment.
    """
    settings, family, batch = workload.experiment.training, workload.family, workload.experiment.data.batch_size
    net, data, rng = workload.net(device), x.to(device), generator(settings.seed, device=device)
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )

    def repeat(times: int) -> None:
        for _ in range(times):
            rows = torch.randint(len(data), (batch,), device=device)
            with autocast(settings.precision, device):
                loss = family.loss(net, data[rows], rng, step=0).total.mean() / family.spec.dims
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return repeat


def project_loop(workload: Workload, x: Tensor, device: torch.device) -> Repeat:
    """Return the project's training loop on x (N, *shape), held in host memory and prefetched to a GPU."""
    settings, batch = workload.experiment.training, workload.experiment.data.batch_size
    session = LocalSession({"train": InMemoryBatches(x=x, batch_size=batch, seed=settings.seed)}, device=device)
    state = TrainState(workload.family, settings, session, MANY_STEPS)
    training_steps = steps(state, session.batches("train"), batch, first=0)

    def repeat(times: int) -> None:
        for _ in range(times):
            next(training_steps)

    return repeat
