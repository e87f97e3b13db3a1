"""The batcher under a mixed load of concurrent clients, against the same samplers in full batches."""

import math
import queue
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from gen_ray.bench.gpu import memory
from gen_ray.bench.gpu.alternating import Conditions, Repeat, ratio
from gen_ray.bench.gpu.sampling import sampler_run
from gen_ray.bench.gpu.workloads import SAMPLERS, Size, Workload
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import Batcher, RequestHandle
from gen_ray.engine.inference.batcher import measure as measure_costs
from gen_ray.errors import RunError
from gen_ray.maths.chain import Chain

WARM_UP = 0.25
"""Warm-up before a window, as a fraction of it, in which the batches fill up."""
SINGLE_ROWS, SINGLE_TIMES = 4, 5
"""Number of samples of a single request, and number of its measurements."""
PATIENCE_SECONDS = 60.0
"""Time after which a batcher that finishes no request counts as stuck."""


@dataclass(frozen=True)
class Window:
    """A time window under load: its seconds, evaluations × rows, and the number of requests that ended."""

    seconds: float
    evaluations: int
    ended: int
    latencies: Sequence[float]
    """Seconds of each request that started in the window, also if it ended later."""


class MixedLoad:
    """Clients that always have a request in the batcher, with a random sampler and a random number of samples."""

    def __init__(self, batcher: Batcher, chains: Sequence[Chain], size: Size, conditions: Conditions) -> None:
        """Create a load without requests on the batcher."""
        self.batcher, self.chains, self.size, self.conditions = batcher, chains, size, conditions
        self._random = random.Random(0)  # noqa: S311 - a load, not a secret
        self._ended: queue.SimpleQueue[RequestHandle] = queue.SimpleQueue()
        self._open: set[RequestHandle] = set()

    def window(self, seconds: float) -> Window:
        """Return the batcher's work in a window of about these seconds, after a warm-up of a quarter of it.

        The load continues until the last request that started in the window has ended.
        """
        try:
            for _ in range(self.size.clients):
                self._submit()
            self._serve(WARM_UP * seconds)
            before, began, open_before = self.batcher.admission.evaluations, time.monotonic(), self._open.copy()
            ended = self._serve(seconds)
            while self.batcher.healthy and not (ended and self.batcher.admission.evaluations > before):
                ended += self._serve(seconds)
            self.conditions.finish()
            elapsed, evaluations = time.monotonic() - began, self.batcher.admission.evaluations - before
            own = [handle for handle in ended if handle not in open_before]
            waiting = self._open - open_before
            while waiting & self._open:
                own += [handle for handle in [self._replace(PATIENCE_SECONDS)] if handle in waiting]
            return Window(
                elapsed, evaluations, len(ended), [(handle.ended or 0.0) - handle.submitted_at for handle in own]
            )
        finally:
            self._cancel()

    def _submit(self) -> None:
        chain, rows = self._random.choice(self.chains), self._random.randint(1, self.size.request_rows)
        handle = self.batcher.submit(chain, rows, seed=self._random.getrandbits(32))
        self._open.add(handle)
        handle.future.add_done_callback(lambda _: self._ended.put(handle))

    def _serve(self, seconds: float) -> list[RequestHandle]:
        """Replace each request that ends by a new one, for the given seconds; return those that ended."""
        ended, end = list[RequestHandle](), time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            try:
                ended.append(self._replace(remaining))
            except queue.Empty:
                break
        return ended

    def _replace(self, patience: float) -> RequestHandle:
        """Return the next request that ends, after submitting a new one. Raise queue.Empty if none ends in time."""
        handle = self._ended.get(timeout=patience)
        self._open.remove(handle)
        if error := handle.future.exception():
            raise RunError(f"the batcher failed under the mixed load: {error}") from error
        self._submit()
        return handle

    def _cancel(self) -> None:
        for handle in self._open:
            handle.cancel_request()
        while self._open:
            self._open.discard(self._ended.get(timeout=PATIENCE_SECONDS))


def measure(workload: Workload, size: Size, conditions: Conditions) -> dict[str, Any]:
    """Return the batcher's rates, latencies and peak memory, next to the rates of full batches."""
    device, model = conditions.device, workload.model(conditions.device)
    chains = [  # every second sampler uses twice as many steps
        workload.chain(sampler, size.sampler_steps * (1 + number % 2))[0]
        for number, sampler in enumerate(SAMPLERS[workload.name])
    ]
    costs = measure_costs(model, device, most_rows=size.serving_batch)
    conditions.check()
    batcher = Batcher(model, costs, device, backlog_seconds=math.inf, threads=torch.get_num_threads())
    try:
        runs = [sampler_run(model.net, chain, costs.best_rows, workload, device) for chain in chains]
        windows, offline = _rounds(MixedLoad(batcher, chains, size, conditions), runs, size, conditions)
        single = _single(batcher, model, chains[0], workload, conditions)
        peak = memory.peak(conditions, lambda: _full_request(batcher, chains[0], size.serving_batch))
    finally:
        batcher.close(drain=False)
    evaluations = costs.best_rows * sum(chain.nfe for chain in chains)
    return _figures(windows, [seconds / evaluations for seconds in offline]) | {
        "evaluations": {name: chain.nfe for name, chain in zip(SAMPLERS[workload.name], chains, strict=True)},
        "clients": size.clients,
        "batch": costs.best_rows,
        "batch_milliseconds": {str(rows): 1e3 * each for rows, each in zip(costs.rows, costs.seconds, strict=True)},
        "single_request": single,
        "memory_batch": size.serving_batch,
        "memory": peak,
    }


def _rounds(
    load: MixedLoad, runs: Sequence[Repeat], size: Size, conditions: Conditions
) -> tuple[list[Window], list[float]]:
    """Return the windows of the load and the seconds of the full batches, measured in turn."""

    def offline() -> float:
        return sum(conditions.seconds(run) for run in runs)

    offline()  # warms up
    conditions.check()
    end = min(conditions.deadline, conditions.clock() + size.batching_seconds)
    windows, seconds = list[Window](), list[float]()
    for number in range(conditions.rounds):
        if number and conditions.clock() >= end:
            break
        seconds.append(offline())
        windows.append(load.window(size.window_seconds))
    return windows, seconds


def _figures(windows: Sequence[Window], offline: Sequence[float]) -> dict[str, Any]:
    """Return rates and latencies; offline is the seconds per evaluation in full batches of each round."""
    served = [window.seconds / window.evaluations for window in windows]
    latencies = sorted(seconds for window in windows for seconds in window.latencies)
    return {
        "rounds": len(windows),
        "offline_evaluations_per_second": 1 / median(offline),
        "served_evaluations_per_second": 1 / median(served),
        **ratio(offline, served),
        "requests_per_second": median(window.ended / window.seconds for window in windows),
        "requests": len(latencies),
        "latency_p50_seconds": _quantile(latencies, 0.5),
        "latency_p99_seconds": _quantile(latencies, 0.99),
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _single(
    batcher: Batcher, model: Model, chain: Chain, workload: Workload, conditions: Conditions
) -> dict[str, float]:
    """Return the latency of a single request, next to the same samples without the batcher."""

    def served(_: int) -> None:
        batcher.submit(chain, SINGLE_ROWS, seed=0).future.result(timeout=PATIENCE_SECONDS)

    direct = sampler_run(model.net, chain, SINGLE_ROWS, workload, conditions.device)
    seconds = [(conditions.seconds(direct), conditions.seconds(served)) for _ in range(SINGLE_TIMES + 1)][1:]
    without, within = ([pair[i] for pair in seconds] for i in range(2))
    return {
        "samples": SINGLE_ROWS,
        "direct_seconds": median(without),
        "served_seconds": median(within),
        **ratio(without, within),
    }


def _full_request(batcher: Batcher, chain: Chain, rows: int) -> Callable[[int], None]:
    def repeat(_: int) -> None:
        batcher.submit(chain, rows, seed=0).future.result()

    return repeat
