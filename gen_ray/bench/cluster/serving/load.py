"""Load generator: closed-loop and open-loop HTTP clients, and the outcomes of their requests."""

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
"""Default maximum number of samples per request."""
REQUEST_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class RequestKind:
    """A sampler, its number of steps and its network evaluations per sample."""

    sampler: str
    steps: int
    nfe: int


@dataclass
class RequestOutcomes:
    """Latencies in seconds of the successful requests, and the number of requests by HTTP status.

    Status 0 counts requests that failed without a response.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    """Number of 429 responses without a Retry-After header."""

    def quantile(self, q: float) -> float:
        """Return the q-quantile of the latencies in seconds; 0 if no request succeeded."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(q * len(self.seconds)))] if self.seconds else 0.0

    @property
    def median(self) -> float:
        """Return the median latency in seconds; 0 if no request succeeded."""
        return statistics.median(self.seconds) if self.seconds else 0.0


class LoadClients:
    """HTTP clients that send sampling requests to one URL."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Create clients for a URL; key is sent as the bearer token."""
        self.url, self._seeds = url, itertools.count()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def request(
        self, session: aiohttp.ClientSession, kind: RequestKind, n: int, outcomes: RequestOutcomes
    ) -> None:
        """Request n samples and record the outcome."""
        body = {"n": n, "seed": next(self._seeds), "sampler": kind.sampler, "steps": kind.steps, "format": "npz"}
        began = time.perf_counter()
        async with session.post(self.url, json=body) as response:
            await response.read()
        outcomes.statuses[response.status] += 1
        if response.status == 200:
            outcomes.seconds.append(time.perf_counter() - began)
        if response.status == 429 and "Retry-After" not in response.headers:
            outcomes.without_retry_after += 1

    def session(self) -> aiohttp.ClientSession:
        """Return an HTTP session with an unlimited number of connections."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
        )

    async def saturate(
        self,
        kinds: Sequence[RequestKind],
        clients: int,
        seconds: float,
        count_evaluations: Callable[[], Awaitable[float]],
        *,
        rows: int = MAX_ROWS,
    ) -> float:
        """Run a closed-loop mixed load of concurrent clients and return the network evaluations per second.

        Each client sends its next request when the previous one has ended. A request has 1 to rows samples. The
        warm-up takes a quarter of seconds in addition. count_evaluations returns the server's total so far.
        """
        rng, stop = random.Random(0), asyncio.Event()  # noqa: S311, a load, not a secret

        async def client(session: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                await self.request(session, rng.choice(kinds), rng.randint(1, rows), RequestOutcomes())

        async with self.session() as session:
            tasks = [asyncio.create_task(client(session)) for _ in range(clients)]
            await asyncio.sleep(seconds / 4)
            before, began = await count_evaluations(), time.perf_counter()
            await asyncio.sleep(seconds)
            rate = (await count_evaluations() - before) / (time.perf_counter() - began)
            stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return rate

    async def sequential(self, kind: RequestKind, n: int, times: int) -> RequestOutcomes:
        """Send requests one at a time and return their outcomes."""
        outcomes = RequestOutcomes()
        async with self.session() as session:
            for _ in range(times):
                await self.request(session, kind, n, outcomes)
        return outcomes

    async def during_long_request(
        self, short: RequestKind, long: RequestKind, rows: int, times: int
    ) -> RequestOutcomes:
        """Repeatedly request one short sample while a long request of ``rows`` samples is in progress."""
        async with self.session() as session:

            async def repeat_long() -> None:
                while True:
                    await self.request(session, long, rows, RequestOutcomes())

            background = asyncio.create_task(repeat_long())
            await asyncio.sleep(1.0)
            outcomes = await self.sequential(short, 1, times)
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)
        return outcomes

    async def overload(self, kind: RequestKind, n: int, rate: float, seconds: float) -> RequestOutcomes:
        """Run an open-loop load of rate requests per second for some seconds, and wait until all have ended."""
        outcomes, tasks = RequestOutcomes(), []
        async with self.session() as session:
            end = time.perf_counter() + seconds
            due = time.perf_counter()
            while due < end:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(asyncio.create_task(self.request(session, kind, n, outcomes)))
                due += 1 / rate
            results = await asyncio.gather(*tasks, return_exceptions=True)
        outcomes.statuses[0] += sum(result is not None for result in results)
        return outcomes
