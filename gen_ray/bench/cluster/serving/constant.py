"""Serving benchmark under constant load: latency, errors, memory and open files over time, and memory growth."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from ray import serve

from gen_ray.bench.cluster.serving.load import LoadClients, RequestKind, RequestOutcomes
from gen_ray.cluster.serving import server
from gen_ray.cluster.serving.args import NAME, ServingApplication

WARM_SECONDS = 8.0
"""Duration of the saturated load that estimates the capacity."""
CLIENTS = 24
"""Number of concurrent clients of the saturated load."""
ROWS = 4
"""Maximum number of samples per request."""
PARTS = 10
"""Number of time intervals with their own figures."""


@dataclass(frozen=True, kw_only=True)
class LoadPart:
    """Figures of one of PARTS time intervals of equal length.

    Latencies are those of successful requests. Memory (MiB by process) and open files are those at the interval's end.
    """

    end_seconds: float
    requests: int
    errors: int
    median_seconds: float
    p99_seconds: float
    memory_mib: dict[str, float]
    open_files: float


@dataclass(kw_only=True)
class ConstantLoadFigures:
    """Results of the constant load: one entry per interval, and the outcomes of all requests."""

    rate: float
    """Requests per second."""
    outcomes: RequestOutcomes = field(default_factory=RequestOutcomes)
    parts: list[LoadPart] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return the figures by name. The memory growth is fitted to the second half, when caches are full."""
        second_half = self.parts[len(self.parts) // 2 :]
        minutes = [part.end_seconds / 60 for part in second_half]
        names = second_half[-1].memory_mib
        slopes = {
            name: float(np.polyfit(minutes, [part.memory_mib.get(name, np.nan) for part in second_half], 1)[0])
            for name in names
        }
        return {
            "requests_per_second": self.rate,
            "statuses": {str(status): count for status, count in sorted(self.outcomes.statuses.items()) if count},
            "median_seconds": self.outcomes.median,
            "p99_seconds": self.outcomes.quantile(0.99),
            "longest_seconds": self.outcomes.quantile(1.0),
            "memory_mib_per_minute": slopes,
            "parts": [vars(part) for part in self.parts],
        }


def constant(
    app: ServingApplication, kinds: Sequence[RequestKind], port: int, *, seconds: float, share: float
) -> ConstantLoadFigures:
    """Serve the application's only model and load it with a share of its capacity for some seconds."""
    [(id, _)] = app.models.items()
    with server.served(app, "127.0.0.1", port) as url:
        return asyncio.run(ConstantLoad(id, f"{url}/v1/models/{id}/sample", kinds).run(seconds, share))


class ConstantLoad:
    """An open-loop load on one served model: sampling requests at regular intervals, without waiting for responses."""

    def __init__(self, id: str, url: str, kinds: Sequence[RequestKind], key: str | None = None) -> None:
        """Create a load on a URL of request kinds chosen at random; key is sent as the bearer token."""
        self.clients, self.kinds = LoadClients(url, key), kinds
        self.replica = serve.get_deployment_handle(id, NAME)
        self.rng = random.Random(0)  # noqa: S311, a load, not a secret

    async def run(self, seconds: float, share: float) -> ConstantLoadFigures:
        """Estimate the capacity, then send a share of it for some seconds."""
        capacity = await self.clients.saturate(self.kinds, CLIENTS, WARM_SECONDS, self.evaluations, rows=ROWS)
        mean_evaluations = (1 + ROWS) / 2 * sum(kind.nfe for kind in self.kinds) / len(self.kinds)
        result = ConstantLoadFigures(rate=share * capacity / mean_evaluations)
        started = due = time.perf_counter()
        intervals, tasks = list[tuple[float, RequestOutcomes, dict[str, float], float]](), list[asyncio.Task[None]]()
        async with self.clients.session() as session:
            for number in range(1, PARTS + 1):
                outcomes = RequestOutcomes()
                while due < started + seconds * number / PARTS:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    kind, rows = self.rng.choice(self.kinds), self.rng.randint(1, ROWS)
                    tasks.append(asyncio.create_task(self.clients.request(session, kind, rows, outcomes)))
                    due += 1 / result.rate
                await asyncio.sleep(max(0.0, started + seconds * number / PARTS - time.perf_counter()))
                intervals.append((time.perf_counter() - started, outcomes, *await self.memory()))
            failed = sum(error is not None for error in await asyncio.gather(*tasks, return_exceptions=True))
        result.outcomes.statuses[0] += failed
        for interval in intervals:
            result.parts.append(_part(*interval))
            result.outcomes.seconds += interval[1].seconds
            result.outcomes.statuses += interval[1].statuses
        return result

    async def evaluations(self) -> float:
        """Return the number of network evaluations of the replica so far."""
        return (await self.replica.counters.remote())["evaluations"]

    async def memory(self) -> tuple[dict[str, float], float]:
        """Return the memory in MiB by process, and the number of the replica's open files.

        The processes are the replica, and the proxy and ingress if they run on this machine.
        """
        counters = await self.replica.counters.remote()
        return {"replica": counters["memory_mib"], **_local_memory_mib()}, counters["open_files"]


def _part(end: float, outcomes: RequestOutcomes, memory: dict[str, float], files: float) -> LoadPart:
    return LoadPart(
        end_seconds=end,
        requests=sum(outcomes.statuses.values()),
        errors=sum(count for status, count in outcomes.statuses.items() if status != 200),
        median_seconds=outcomes.median,
        p99_seconds=outcomes.quantile(0.99),
        memory_mib=memory,
        open_files=files,
    )


def _local_memory_mib() -> dict[str, float]:
    """Return the memory in MiB of Serve's proxy and ingress among the child processes of this one."""
    titles = {"proxy": "ProxyActor", "ingress": f"{NAME}:ingress"}
    memory_mib: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title, memory = " ".join(process.cmdline()), process.memory_info().rss / 2**20
        except psutil.Error:  # the process has ended
            continue
        memory_mib.update(
            {name: memory for name, words in titles.items() if title.startswith("ray::") and words in title}
        )
    return memory_mib
