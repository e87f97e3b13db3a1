"""Clients: some that always want something, one that waits for no answer; and what became of each request."""

import asyncio
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

MAX_ROWS = 16
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class RequestKind:
    """A sampler, its steps and the network evaluations they take."""

    sampler: str
    steps: int
    nfe: int


@dataclass
class RequestOutcomes:
    """Seconds of every request that was answered, and how many ended with each status."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0

    def quantile(self, q: float) -> float:
        """Return a quantile of the seconds of those answered."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(q * len(self.seconds)))] if self.seconds else 0.0

    @property
    def median(self) -> float:
        """Return the median of the seconds of those answered."""
        return statistics.median(self.seconds) if self.seconds else 0.0


class LoadClients:
    """Requests to one address."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Send a key, if there is one."""
        self.url, self._seeds = url, itertools.count()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(self, session: aiohttp.ClientSession, kind: RequestKind, n: int, outcomes: RequestOutcomes) -> None:
        """Ask for n samples and note what came of it."""
        body = {"n": n, "seed": next(self._seeds), "sampler": kind.sampler, "steps": kind.steps, "format": "npz"}
        began = time.perf_counter()
        async with session.post(self.url, json=body) as answer:
            await answer.read()
        outcomes.statuses[answer.status] += 1
        if answer.status == 200:
            outcomes.seconds.append(time.perf_counter() - began)
        if answer.status == 429 and "Retry-After" not in answer.headers:
            outcomes.without_retry_after += 1

    def session(self) -> aiohttp.ClientSession:
        """Return a session with as many connections as are wanted."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS),
        )

    async def saturate(
        self,
        kinds: Sequence[RequestKind],
        clients: int,
        seconds: float,
        counted: Callable[[], Awaitable[float]],
        *,
        rows: int = MAX_ROWS,
    ) -> float:
        """Keep some clients busy with a mixed load, and return evaluations a second after a quarter to warm up.

        A request has 1 to rows samples.
        """
        rng, stop = random.Random(0), asyncio.Event()  # noqa: S311, a load and no secret

        async def client(session: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                await self.ask(session, rng.choice(kinds), rng.randint(1, rows), RequestOutcomes())

        async with self.session() as session:
            tasks = [asyncio.create_task(client(session)) for _ in range(clients)]
            await asyncio.sleep(seconds / 4)
            before, began = await counted(), time.perf_counter()
            await asyncio.sleep(seconds)
            rate = (await counted() - before) / (time.perf_counter() - began)
            stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return rate

    async def one_by_one(self, kind: RequestKind, n: int, times: int) -> RequestOutcomes:
        """Send requests one after another, each after the answer to the one before."""
        outcomes = RequestOutcomes()
        async with self.session() as session:
            for _ in range(times):
                await self.ask(session, kind, n, outcomes)
        return outcomes

    async def beside(self, short: RequestKind, long: RequestKind, rows: int, times: int) -> RequestOutcomes:
        """Repeatedly request one short sample while a long request of ``rows`` samples is in progress."""
        async with self.session() as session:

            async def always() -> None:
                while True:
                    await self.ask(session, long, rows, RequestOutcomes())

            busy = asyncio.create_task(always())
            await asyncio.sleep(1.0)
            found = await self.one_by_one(short, 1, times)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
        return found

    async def overload(self, kind: RequestKind, n: int, rate: float, seconds: float) -> RequestOutcomes:
        """Ask rate times a second whatever becomes of it, and wait for the end of each."""
        outcomes, tasks = RequestOutcomes(), []
        async with self.session() as session:
            end = time.perf_counter() + seconds
            due = time.perf_counter()
            while due < end:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(asyncio.create_task(self.ask(session, kind, n, outcomes)))
                due += 1 / rate
            failed = [f for f in await asyncio.gather(*tasks, return_exceptions=True) if f is not None]
        outcomes.statuses[0] += len(failed)
        return outcomes
