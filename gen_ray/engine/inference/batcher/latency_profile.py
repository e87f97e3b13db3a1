"""What a tick costs by the number of its rows: measured once, so that batches are as large as pays and no larger."""

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher.requests import SamplingRequest
from gen_ray.engine.inference.batcher.running_batch import RunningBatch
from gen_ray.engine.inference.memory import is_out_of_memory
from gen_ray.engine.training.step import autocast
from gen_ray.errors import RunError
from gen_ray.family import Chain

MOST_ROWS = 512
SLOWEST_TICK_SECONDS = 0.1
"""No batch is larger than the first one that takes this long: whoever comes in waits for a tick to end."""
ENOUGH = 0.97
"""Share of the highest rate that will do: beyond it a larger batch only makes ticks longer."""
ROUNDS = 4


@dataclass(frozen=True)
class LatencyProfile:
    """Seconds of a tick at some numbers of rows, both rising; in between on the line."""

    rows: Sequence[int]
    seconds: Sequence[float]

    def of(self, rows: int) -> float:
        """Return the seconds of a tick of so many rows; beyond the largest measured, several ticks of it."""
        whole, rest = divmod(rows, self.rows[-1])
        return whole * self.seconds[-1] + (float(np.interp(rest, [0, *self.rows], [0.0, *self.seconds])) if rest else 0)

    @cached_property
    def best(self) -> int:
        """Return the smallest measured number of rows at which the rate is nearly the highest."""
        rates = [rows / seconds for rows, seconds in zip(self.rows, self.seconds, strict=True)]
        return next(rows for rows, rate in zip(self.rows, rates, strict=True) if rate >= ENOUGH * max(rates))

    @cached_property
    def row_seconds(self) -> float:
        """Return what a row's tick costs in a batch of the best size."""
        return self.of(self.best) / self.best

    def most(self, seconds: float) -> int:
        """Return how many rows a tick of so many seconds has, at least one and at most the best number."""
        at = bisect_right(self.seconds, seconds)
        if at == 0:
            return 1
        if at == len(self.seconds):
            return self.best
        (low, high), (under, over) = self.rows[at - 1 : at + 1], self.seconds[at - 1 : at + 1]
        between = low + (high - low) * (seconds - under) / (over - under) if over > under else low
        return max(1, min(self.best, int(between)))


@torch.inference_mode()
def measure(model: Model, device: torch.device, *, most_rows: int = MOST_ROWS) -> LatencyProfile:
    """Tick 1, 2, 4 … most_rows rows of the default sampler and return what each takes; warms the net up, too.

    It stops where a tick gets slow or the device is out of memory. Call it with as many threads as the batcher will
    have. Raise RunError where one row does not fit.
    """
    rows: list[int] = []
    seconds: list[float] = []
    chain, size = model.experiment.chain(model.family), 1
    while size <= most_rows:
        try:
            with autocast(model.experiment.training.precision, device):
                took = _tick_seconds(model.net, chain, device, size)
        except RuntimeError as error:  # which torch.OutOfMemoryError is, too
            if not is_out_of_memory(error):
                raise
            if not rows:
                raise RunError(f"out of memory on {device}: one sample of this model does not fit") from None
            break
        rows.append(size)
        seconds.append(max(took, *seconds[-1:], 0.0))
        if seconds[-1] > SLOWEST_TICK_SECONDS:
            break
        size *= 2
    return LatencyProfile(tuple(rows), tuple(seconds))


def _tick_seconds(net: nn.Module, chain: Chain, device: torch.device, size: int) -> float:
    walk = SamplingRequest(chain, size, seed=0)
    cohort = RunningBatch(device)
    cohort.set_rows(walk.next_rows(size))
    times = []
    for _ in range(ROUNDS + 1):
        for row in cohort.rows:
            row.position = walk.chain.nfe // 2
        began = time.perf_counter()
        cohort.tick(net)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])  # what else runs on the machine only adds to it
