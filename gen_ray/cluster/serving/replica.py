"""One replica of a model: a Seat in an actor. Its net computes in a thread, so that health and streams are answered."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psutil
import torch

from gen_ray.cluster.serving import logs
from gen_ray.cluster.serving.args import ServingApplication
from gen_ray.cluster.serving.metrics import ReplicaMetrics
from gen_ray.cluster.serving.scaling import BACKLOG, TARGET
from gen_ray.cluster.training.device import reserved_device
from gen_ray.serving.local_service import LocalModelService
from gen_ray.serving.service import ErrorReply, JobResult, ModelCard, RequestRefusedError, ServingJob, StreamPreview
from gen_ray.serving.sources import source_of
from gen_ray.storage.paths import beside
from gen_ray.tracking import signing

METER_SECONDS = 1.0
SWITCH_SECONDS = 0.0005
"""Between Python's threads: with the usual 5 ms, a request of 0.4 ms beside six likelihoods took 50 times as long."""


class Replica:
    """What Ray Serve calls; plain data in and out, refusals as values."""

    async def __init__(self, id: str, raw: dict[str, Any]) -> None:  # type: ignore[misc]
        """Load, check and warm the newest version; only then is the replica ready."""
        app, self._beside = ServingApplication.model_validate(raw), list[asyncio.Task[None]]()
        served = app.models[id]
        self._served, self._meters = served, ReplicaMetrics()
        device, threads = reserved_device(), max(1, int(served.cpus))
        torch.set_num_threads(threads)
        logs.write(beside(app.root) / "serving")
        if app.require_signatures:
            signing.require()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._seat = LocalModelService(
            id,
            source_of(served.model, app.root, app.tracking_uri),
            device=device,
            limits=app.limits,
            told=self._meters.told,
            threads=threads,
            backlog_seconds=served.backlog_seconds,
        )
        await self._seat.open()
        self._beside = [
            asyncio.create_task(self._seat.follow(app.follow_seconds)),
            asyncio.create_task(self._measure()),
        ]

    async def card(self) -> ModelCard:
        """Return what is known of the model."""
        return await self._seat.card()

    async def run(self, job: ServingJob) -> JobResult | ErrorReply:
        """Do a job."""
        try:
            return await self._seat.run(job)
        except RequestRefusedError as error:
            return error.refusal

    async def stream(self, job: ServingJob) -> AsyncIterator[StreamPreview | JobResult | ErrorReply]:
        """Do a job and yield looks at it on the way."""
        try:
            async with aclosing(self._seat.stream(job)) as events:
                async for event in events:
                    yield event
        except RequestRefusedError as error:
            yield error.refusal

    async def counters(self) -> dict[str, float]:
        """Return evaluations done, requests under way, MiB of memory and open files, for measurements."""
        ledger, process = self._seat.edition.batcher.ledger, psutil.Process()
        return {
            "evaluations": ledger.evaluations,
            "requests": ledger.requests,
            "memory_mib": process.memory_info().rss / 2**20,
            "open_files": process.num_fds(),
        }

    async def check_health(self) -> None:
        """Raise RuntimeError where the batcher is not well or nobody looks for newer versions: Serve replaces it."""
        if not self._seat.edition.batcher.well:
            raise RuntimeError("the batcher's forwards keep failing")
        for task in self._beside:
            if task.done():
                raise RuntimeError(f"what goes on beside the requests has ended: {task.exception()!r}")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the autoscaling policy wants to know."""
        return {
            BACKLOG: self._seat.edition.batcher.ledger.backlog_seconds,
            TARGET: self._served.target_backlog_seconds,
        }

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(METER_SECONDS)
            self._meters.read(self._seat.edition.batcher.ledger)

    async def __del__(self) -> None:
        """Finish what was begun: Serve has routed everything new elsewhere."""
        for task in self._beside:
            task.cancel()
        await self._seat.close()
