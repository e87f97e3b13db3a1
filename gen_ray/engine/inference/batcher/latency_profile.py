"""The latency profile: seconds of a batch evaluation by its number of rows, measured once, and the best batch size."""

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
from gen_ray.engine.inference.precision import autocast
from gen_ray.errors import RunError
from gen_ray.maths.chain import Chain

MAX_ROWS = 512
SLOWEST_TICK_SECONDS = 0.1
"""The largest batch is the first that takes this long, because a new request waits for the running evaluation."""
ENOUGH = 0.97
"""Sufficient share of the highest throughput; a larger batch would only increase the latency."""
ROUNDS = 4
"""Timed evaluations of each size; the fastest counts."""


@dataclass(frozen=True)
class LatencyProfile:
    """Seconds of one evaluation at some numbers of rows, both increasing; linear interpolation in between."""

    rows: Sequence[int]
    seconds: Sequence[float]

    def seconds_of(self, rows: int) -> float:
        """Return the seconds of an evaluation of rows; beyond the largest measured size, of several evaluations."""
        whole, rest = divmod(rows, self.rows[-1])
        return whole * self.seconds[-1] + (float(np.interp(rest, [0, *self.rows], [0.0, *self.seconds])) if rest else 0)

    @cached_property
    def best_rows(self) -> int:
        """Return the smallest measured number of rows whose throughput is at least ENOUGH of the highest."""
        rates = [rows / seconds for rows, seconds in zip(self.rows, self.seconds, strict=True)]
        return next(rows for rows, rate in zip(self.rows, rates, strict=True) if rate >= ENOUGH * max(rates))

    @cached_property
    def row_seconds(self) -> float:
        """Return the seconds of one row's evaluation in a batch of the best size."""
        return self.seconds_of(self.best_rows) / self.best_rows

    def rows_within(self, seconds: float) -> int:
        """Return how many rows can be evaluated in the given seconds: at least one, at most the best size."""
        at = bisect_right(self.seconds, seconds)
        if at == 0:
            return 1
        if at == len(self.seconds):
            return self.best_rows
        (low, high), (under, over) = self.rows[at - 1 : at + 1], self.seconds[at - 1 : at + 1]
        between = low + (high - low) * (seconds - under) / (over - under) if over > under else low
        return max(1, min(self.best_rows, int(between)))


@torch.inference_mode()
def measure(model: Model, device: torch.device, *, most_rows: int = MAX_ROWS) -> LatencyProfile:
    """Evaluate 1, 2, 4 … most_rows rows of the default sampler and return the time of each size; warms the network up.

    The measurement stops where an evaluation becomes slow or the device is out of memory. Call it with the same number
    of threads as the batcher will have. Raise RunError where one row does not fit.
    """
    rows: list[int] = []
    seconds: list[float] = []
    chain, size = model.experiment.chain(model.family), 1
    while size <= most_rows:
        try:
            with autocast(model.experiment.training.precision, device):
                took = _tick_seconds(model.net, chain, device, size)
        except RuntimeError as error:  # the base class of torch.OutOfMemoryError
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
    request = SamplingRequest(chain, size, seed=0)
    batch = RunningBatch(device)
    batch.set_rows(request.next_rows(size))
    start, times = batch.state, []
    for _ in range(ROUNDS + 1):
        batch.state = start  # with the same work in every round: a table's columns are revealed once
        for row in batch.rows:
            row.position = request.chain.nfe // 2
        began = time.perf_counter()
        batch.tick(net)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])  # the minimum, because other processes can only add time
