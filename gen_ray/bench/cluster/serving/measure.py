"""The rounds: offline, served and baseline in turn; then a lone request, a short one beside a long one, too many."""

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
from gen_ray.serving.sources import folder_of

CPU = torch.device("cpu")
FULL_BATCH = 64
LONG_ROWS = 64
SMALL_ROWS = 4
BASELINE, ROUTE = "gen_ray_baseline", "/baseline"
TIMES = 15
LONE_SECONDS = 0.4
"""What a lone request takes at least: shorter ones measure the way there and not the work."""


@dataclass(kw_only=True)
class ServingFigures:
    """Everything measured. Rates are network evaluations a second, one a round."""

    offline: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    """Of the baseline, which batches requests."""
    lone: list[float] = field(default_factory=list)
    """Seconds by HTTP, and below in this process, in turn."""
    in_process: list[float] = field(default_factory=list)
    idle: RequestOutcomes = field(default_factory=RequestOutcomes)
    beside: RequestOutcomes = field(default_factory=RequestOutcomes)
    overload: RequestOutcomes = field(default_factory=RequestOutcomes)
    after: RequestOutcomes = field(default_factory=RequestOutcomes)
    capacity: float = 0.0
    """Small requests a second."""
    asked_rate: float = 0.0
    backlog_seconds: float = 0.0
    memory: list[float] = field(default_factory=list)
    """MiB of the replica before, after the first and after the second half of the overload."""


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """How long each part takes."""

    rounds: int
    seconds: float
    clients: int
    overload_seconds: float


def measure(app: ServingApplication, kinds: Sequence[RequestKind], port: int, plan: BenchPlan) -> ServingFigures:
    """Serve the application's only model and the baseline beside it, and measure both."""
    [(id, served)] = app.models.items()
    model = artifact.load(folder_of(served.model, app.root, app.tracking_uri))
    torch.set_num_threads(max(1, int(served.cpus)))
    with server.served(app, "127.0.0.1", port, beside=served.cpus) as url:
        serve.run(baseline.build(app), name=BASELINE, route_prefix=ROUTE)
        bench = _Bench(model, id, url, kinds, plan)
        return asyncio.run(bench.all(served.backlog_seconds))


class _Bench:
    def __init__(self, model: Model, id: str, url: str, kinds: Sequence[RequestKind], plan: BenchPlan) -> None:
        self.model, self.kinds, self.plan = model, kinds, plan
        self.clients = LoadClients(f"{url}/v1/models/{id}/sample")
        self.others = LoadClients(f"{url}{ROUTE}")
        self.replica = serve.get_deployment_handle(id, server.NAME)
        self.baseline = serve.get_deployment_handle("baseline", BASELINE)
        self.short = min(kinds, key=lambda kind: kind.nfe)
        self.long = max(kinds, key=lambda kind: kind.nfe)

    async def all(self, backlog_seconds: float) -> ServingFigures:
        found = ServingFigures(backlog_seconds=backlog_seconds)
        for _ in range(self.plan.rounds):
            found.offline.append(self.offline())
            found.served.append(await self.saturated(self.clients, self.evaluations))
            await self.quiet()
            found.requests.append(await self.saturated(self.others, self.baseline_evaluations))
            await asyncio.sleep(self.plan.seconds / 2)
        await self.alone(found)
        found.idle = await self.clients.one_by_one(self.short, 1, TIMES)
        found.beside = await self.clients.beside(self.short, self.long, LONG_ROWS, TIMES)
        await self.quiet()
        await self.too_many(found)
        return found

    def offline(self) -> float:
        """Return evaluations a second of the mix in full batches: so many seconds an evaluation for each kind."""
        seconds = {kind: self._generate(kind, FULL_BATCH) / FULL_BATCH for kind in self.kinds}
        return sum(kind.nfe for kind in self.kinds) / sum(seconds.values())

    def _generate(self, kind: RequestKind, n: int) -> float:
        chain = self.model.family.chain(kind.sampler, kind.steps)
        began = time.perf_counter()
        with autocast(self.model.experiment.training.precision, CPU):
            generate(self.model.net, chain, n, seed=0, device=CPU, batch_size=FULL_BATCH)
        return time.perf_counter() - began

    async def saturated(self, clients: LoadClients, counted: Callable[[], Awaitable[float]]) -> float:
        return await clients.saturate(self.kinds, self.plan.clients, self.plan.seconds, counted)

    async def evaluations(self) -> float:
        return (await self.replica.counters.remote())["evaluations"]

    async def baseline_evaluations(self) -> float:
        return (await self.baseline.counters.remote())["evaluations"]

    async def quiet(self) -> None:
        """Wait until nothing is under way in the replica."""
        while (await self.replica.counters.remote())["requests"]:
            await asyncio.sleep(0.1)

    async def alone(self, found: ServingFigures) -> None:
        """Ask for one sample of about LONE_SECONDS on the idle server, in turn with the same in this process."""
        step = self._generate(self.short, 1) / self.short.steps
        steps = max(self.short.steps, math.ceil(LONE_SECONDS / step))
        kind = RequestKind(self.short.sampler, steps, self.model.family.chain(self.short.sampler, steps).nfe)
        for _ in range(TIMES):
            found.in_process.append(self._generate(kind, 1))
            found.lone += (await self.clients.one_by_one(kind, 1, 1)).seconds

    async def too_many(self, found: ServingFigures) -> None:
        """Ask five times as often as can be answered."""
        rate = await self.saturated(LoadClients(self.clients.url), self.evaluations)
        found.capacity = rate / (SMALL_ROWS * self.short.nfe)
        found.asked_rate = 5 * found.capacity
        await self.quiet()
        found.memory.append(await self._memory())
        for _ in range(2):
            half = await self.clients.overload(self.short, SMALL_ROWS, found.asked_rate, self.plan.overload_seconds / 2)
            found.overload.seconds += half.seconds
            found.overload.statuses += half.statuses
            found.overload.without_retry_after += half.without_retry_after
            found.memory.append(await self._memory())
        await asyncio.sleep(5.0)
        found.after = await self.clients.one_by_one(self.short, 1, TIMES)

    async def _memory(self) -> float:
        return (await self.replica.counters.remote())["memory_mib"]
