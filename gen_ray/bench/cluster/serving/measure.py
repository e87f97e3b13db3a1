"""Serving benchmark: rounds of offline, served and baseline sampling; then latency, fairness and overload."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import torch
from ray import serve

from gen_ray.bench.cluster.serving import baseline
from gen_ray.bench.cluster.serving.load import LoadClients, RequestKind, RequestOutcomes
from gen_ray.cluster.serving import server
from gen_ray.cluster.serving.args import ServingApplication
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.precision import autocast
from gen_ray.tracking.sources import folder_of

CPU = torch.device("cpu")
FULL_BATCH = 64
LONG_ROWS = 64
SMALL_ROWS = 4
BASELINE, ROUTE = "gen_ray_baseline", "/baseline"
TIMES = 15
"""Number of requests of each latency measurement."""
SINGLE_SECONDS = 0.4
"""Minimum duration of a single request, because HTTP overhead dominates shorter ones."""


@dataclass(kw_only=True)
class ServingFigures:
    """Results of the serving benchmark. Rates are in network evaluations per second, one per round."""

    offline: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    request_batching: list[float] = field(default_factory=list)
    """Rates of the baseline, which batches whole requests."""
    single_seconds: list[float] = field(default_factory=list)
    """Latency of a single request by HTTP on an idle server, in seconds."""
    in_process_seconds: list[float] = field(default_factory=list)
    """Duration of the same sampling in this process, in seconds; alternates with single_seconds."""
    idle: RequestOutcomes = field(default_factory=RequestOutcomes)
    """Short requests on an idle server."""
    during_long: RequestOutcomes = field(default_factory=RequestOutcomes)
    """Short requests while a long request is in progress."""
    overload: RequestOutcomes = field(default_factory=RequestOutcomes)
    after_overload: RequestOutcomes = field(default_factory=RequestOutcomes)
    capacity: float = 0.0
    """Requests of SMALL_ROWS samples per second at saturation."""
    overload_rate: float = 0.0
    """Requests per second sent in the overload."""
    backlog_seconds: float = 0.0
    """Backlog limit of the server."""
    memory_mib: list[float] = field(default_factory=list)
    """Memory of the replica before, after the first and after the second half of the overload."""


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """Number of rounds and clients, and the duration of each part in seconds."""

    rounds: int
    seconds: float
    clients: int
    overload_seconds: float


def measure(app: ServingApplication, kinds: Sequence[RequestKind], port: int, plan: BenchPlan) -> ServingFigures:
    """Serve the application's only model and the baseline on the same cluster, and measure both."""
    [(id, served)] = app.models.items()
    model = artifact.load(folder_of(served.model, app.root, app.tracking_uri))
    torch.set_num_threads(max(1, int(served.cpus)))
    with server.served(app, "127.0.0.1", port, extra_cpus=served.cpus) as url:
        serve.run(baseline.build(app), name=BASELINE, route_prefix=ROUTE)
        bench = _Bench(model, id, url, kinds, plan)
        return asyncio.run(bench.all(served.backlog_seconds))


class _Bench:
    def __init__(self, model: Model, id: str, url: str, kinds: Sequence[RequestKind], plan: BenchPlan) -> None:
        self.model, self.kinds, self.plan = model, kinds, plan
        self.clients = LoadClients(f"{url}/v1/models/{id}/sample")
        self.baseline_clients = LoadClients(f"{url}{ROUTE}")
        self.replica = serve.get_deployment_handle(id, server.NAME)
        self.baseline = serve.get_deployment_handle("baseline", BASELINE)
        self.short = min(kinds, key=lambda kind: kind.nfe)
        self.long = max(kinds, key=lambda kind: kind.nfe)

    async def all(self, backlog_seconds: float) -> ServingFigures:
        figures = ServingFigures(backlog_seconds=backlog_seconds)
        for _ in range(self.plan.rounds):
            figures.offline.append(self.offline())
            figures.served.append(await self.saturated(self.clients, self.evaluations))
            await self.wait_until_idle()
            figures.request_batching.append(await self.saturated(self.baseline_clients, self.baseline_evaluations))
            await asyncio.sleep(self.plan.seconds / 2)
        await self.single_requests(figures)
        figures.idle = await self.clients.sequential(self.short, 1, TIMES)
        figures.during_long = await self.clients.during_long_request(self.short, self.long, LONG_ROWS, TIMES)
        await self.wait_until_idle()
        await self.overload(figures)
        return figures

    def offline(self) -> float:
        """Return the network evaluations per second of the mixed load, sampled in full batches without a server."""
        seconds_per_sample = {kind: self._generate(kind, FULL_BATCH) / FULL_BATCH for kind in self.kinds}
        return sum(kind.nfe for kind in self.kinds) / sum(seconds_per_sample.values())

    def _generate(self, kind: RequestKind, n: int) -> float:
        """Return the seconds of drawing n samples in this process."""
        chain = self.model.family.chain(kind.sampler, kind.steps)
        began = time.perf_counter()
        with autocast(self.model.experiment.training.precision, CPU):
            generate(self.model.net, chain, n, seed=0, device=CPU, batch_size=FULL_BATCH)
        return time.perf_counter() - began

    async def saturated(self, clients: LoadClients, count_evaluations: Callable[[], Awaitable[float]]) -> float:
        return await clients.saturate(self.kinds, self.plan.clients, self.plan.seconds, count_evaluations)

    async def evaluations(self) -> float:
        return (await self.replica.counters.remote())["evaluations"]

    async def baseline_evaluations(self) -> float:
        return (await self.baseline.counters.remote())["evaluations"]

    async def wait_until_idle(self) -> None:
        """Wait until the replica has no request in progress."""
        while (await self.replica.counters.remote())["requests"]:
            await asyncio.sleep(0.1)

    async def single_requests(self, figures: ServingFigures) -> None:
        """Time single requests of at least SINGLE_SECONDS on the idle server, alternating with in-process sampling."""
        step_seconds = self._generate(self.short, 1) / self.short.steps
        steps = max(self.short.steps, math.ceil(SINGLE_SECONDS / step_seconds))
        kind = RequestKind(self.short.sampler, steps, self.model.family.chain(self.short.sampler, steps).nfe)
        for _ in range(TIMES):
            figures.in_process_seconds.append(self._generate(kind, 1))
            figures.single_seconds += (await self.clients.sequential(kind, 1, 1)).seconds

    async def overload(self, figures: ServingFigures) -> None:
        """Send requests at five times the capacity; measure memory during the load and latency after it."""
        rate = await self.saturated(LoadClients(self.clients.url), self.evaluations)
        figures.capacity = rate / (SMALL_ROWS * self.short.nfe)
        figures.overload_rate = 5 * figures.capacity
        await self.wait_until_idle()
        figures.memory_mib.append(await self._memory())
        for _ in range(2):
            half = await self.clients.overload(
                self.short, SMALL_ROWS, figures.overload_rate, self.plan.overload_seconds / 2
            )
            figures.overload.seconds += half.seconds
            figures.overload.statuses += half.statuses
            figures.overload.without_retry_after += half.without_retry_after
            figures.memory_mib.append(await self._memory())
        await asyncio.sleep(5.0)
        figures.after_overload = await self.clients.sequential(self.short, 1, TIMES)

    async def _memory(self) -> float:
        return (await self.replica.counters.remote())["memory_mib"]
