"""A constant load for minutes: latency, errors, memory and open files over time, and the slope of the memory."""

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
"""Of saturated load, by which the capacity is estimated."""
CLIENTS = 24
ROWS = 4
"""Samples of a request, at most."""
PARTS = 10
"""Of the load, each with its figures."""


@dataclass(frozen=True, kw_only=True)
class LoadPart:
    """A tenth of the load. Seconds are of requests that were answered; memory is at its end, MiB by process."""

    end_seconds: float
    requests: int
    errors: int
    median_seconds: float
    p99_seconds: float
    memory_mib: dict[str, float]
    open_files: float


@dataclass(kw_only=True)
class ConstantLoadFigures:
    """All parts, and the figures of the whole."""

    rate: float
    """Requests a second."""
    whole: RequestOutcomes = field(default_factory=RequestOutcomes)
    parts: list[LoadPart] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return the figures by name. The slope is fitted to the second half, after caches are full."""
        half = self.parts[len(self.parts) // 2 :]
        minutes = [part.end_seconds / 60 for part in half]
        names = half[-1].memory_mib
        slopes = {
            name: float(np.polyfit(minutes, [part.memory_mib.get(name, np.nan) for part in half], 1)[0])
            for name in names
        }
        return {
            "requests_per_second": self.rate,
            "statuses": {str(status): count for status, count in sorted(self.whole.statuses.items()) if count},
            "median_seconds": self.whole.median,
            "p99_seconds": self.whole.quantile(0.99),
            "longest_seconds": self.whole.quantile(1.0),
            "memory_mib_per_minute": slopes,
            "parts": [vars(part) for part in self.parts],
        }


def constant(
    app: ServingApplication, kinds: Sequence[RequestKind], port: int, *, seconds: float, share: float
) -> ConstantLoadFigures:
    """Serve the application's only model and send a share of the requests that it can answer, for some seconds."""
    [(id, _)] = app.models.items()
    with server.served(app, "127.0.0.1", port) as url:
        return asyncio.run(ConstantLoad(id, f"{url}/v1/models/{id}/sample", kinds).run(seconds, share))


class ConstantLoad:
    """Requests for samples of one served model at regular intervals, whether or not earlier ones are answered."""

    def __init__(self, id: str, url: str, kinds: Sequence[RequestKind], key: str | None = None) -> None:
        """Send to a URL, with a key if there is one, samplers in turn by chance."""
        self.clients, self.kinds = LoadClients(url, key), kinds
        self.replica = serve.get_deployment_handle(id, NAME)
        self.rng = random.Random(0)  # noqa: S311, a load and no secret

    async def run(self, seconds: float, share: float) -> ConstantLoadFigures:
        """Estimate the capacity and send a share of it for some seconds."""
        evaluations = await self.clients.saturate(self.kinds, CLIENTS, WARM_SECONDS, self.evaluations, rows=ROWS)
        mean = (1 + ROWS) / 2 * sum(kind.nfe for kind in self.kinds) / len(self.kinds)
        found = ConstantLoadFigures(rate=share * evaluations / mean)
        started = due = time.perf_counter()
        parts, tasks = list[tuple[float, RequestOutcomes, dict[str, float], float]](), list[asyncio.Task[None]]()
        async with self.clients.session() as session:
            for number in range(1, PARTS + 1):
                outcomes = RequestOutcomes()
                while due < started + seconds * number / PARTS:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    kind, rows = self.rng.choice(self.kinds), self.rng.randint(1, ROWS)
                    tasks.append(asyncio.create_task(self.clients.ask(session, kind, rows, outcomes)))
                    due += 1 / found.rate
                await asyncio.sleep(max(0.0, started + seconds * number / PARTS - time.perf_counter()))
                parts.append((time.perf_counter() - started, outcomes, *await self.memory()))
            lost = sum(failed is not None for failed in await asyncio.gather(*tasks, return_exceptions=True))
        found.whole.statuses[0] += lost
        for part in parts:
            found.parts.append(_part(*part))
            found.whole.seconds += part[1].seconds
            found.whole.statuses += part[1].statuses
        return found

    async def evaluations(self) -> float:
        """Return the network evaluations that the replica has done."""
        return (await self.replica.counters.remote())["evaluations"]

    async def memory(self) -> tuple[dict[str, float], float]:
        """Return MiB of the replica, and of proxy and ingress where they are on this machine; the replica's files."""
        counters = await self.replica.counters.remote()
        return {"replica": counters["memory_mib"], **_of_this_machine()}, counters["open_files"]


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


def _of_this_machine() -> dict[str, float]:
    """Return MiB of Serve's proxy and ingress among the processes that this one has started."""
    titles = {"proxy": "ProxyActor", "ingress": f"{NAME}:ingress"}
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title, memory = " ".join(process.cmdline()), process.memory_info().rss / 2**20
        except psutil.Error:  # it has ended meanwhile
            continue
        found.update({name: memory for name, words in titles.items() if title.startswith("ray::") and words in title})
    return found
