"""Floating-point operations of a training step, and the rate at which the device multiplies large matrices."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gen_ray.bench.gpu.alternating import Repeat
from gen_ray.bench.gpu.workloads import Workload
from gen_ray.engine.inference.precision import autocast, precision_on
from gen_ray.maths.noise import generator

COUNTED_ROWS = 2
"""Batch size of the counted step; the number of operations is proportional to it."""


def count(work: Callable[[], object]) -> int:
    """Return the operations of the matrix products and convolutions of work, a multiplication and an addition each.

    Attention is computed by plain products during the count, because the counter does not know all fused kernels.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def of_training(workload: Workload, device: torch.device) -> float:
    """Return the operations per example of a training step, forward and backward."""
    net, x = workload.net(device), workload.examples(COUNTED_ROWS).to(device)
    rng = generator(0, device=device)

    def step() -> None:
        with autocast(workload.experiment.training.precision, device):
            loss = workload.family.loss(net, x, rng, step=0).total.mean()
        loss.backward()

    return count(step) / COUNTED_ROWS


def matmul(workload: Workload, side: int, device: torch.device) -> tuple[Repeat, float]:
    """Return a product of two random matrices (side, side) in the workload's precision, and its operations."""
    dtype = getattr(torch, precision_on(workload.experiment.training.precision, device))
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    @torch.no_grad()
    def repeat(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return repeat, 2.0 * side**3
