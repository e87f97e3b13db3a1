"""The replica deployment: a LocalModelService in an actor.

The network runs in a thread, so that health checks and streams are processed meanwhile.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psutil
import torch

from gen_ray.cluster.nodes.device import reserved_device
from gen_ray.cluster.serving import logs
from gen_ray.cluster.serving.args import ServingApplication
from gen_ray.cluster.serving.metrics import ReplicaMetrics
from gen_ray.cluster.serving.scaling import BACKLOG, TARGET
from gen_ray.serving.local_service import LocalModelService
from gen_ray.serving.service import ErrorReply, JobResult, ModelCard, RequestRefusedError, ServingJob, StreamPreview
from gen_ray.storage.paths import local_dir
from gen_ray.tracking import signing
from gen_ray.tracking.sources import source_of

METER_SECONDS = 1.0
SWITCH_SECONDS = 0.0005
"""Thread switch interval of Python. With the default of 5 ms, a request of 0.4 ms took 50 times as long next to six
likelihood requests."""


class Replica:
    """The deployment class of a model. Arguments and results are plain data; errors are returned as values."""

    async def __init__(self, id: str, raw: dict[str, Any]) -> None:  # type: ignore[misc]
        """Load, check and warm up the newest version of model ``id``. Afterwards the replica is ready."""
        app, self._background = ServingApplication.model_validate(raw), list[asyncio.Task[None]]()
        served = app.models[id]
        self._served, self._metrics = served, ReplicaMetrics()
        device, threads = reserved_device(), max(1, int(served.cpus))
        torch.set_num_threads(threads)
        logs.write(local_dir(app.root) / "serving")
        if app.require_signatures:
            signing.require()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._service = LocalModelService(
            id,
            source_of(served.model, app.root, app.tracking_uri),
            device=device,
            limits=app.limits,
            on_finished=self._metrics.record,
            threads=threads,
            backlog_seconds=served.backlog_seconds,
        )
        await self._service.open()
        self._background = [
            asyncio.create_task(self._service.follow(app.follow_seconds)),
            asyncio.create_task(self._measure()),
        ]

    async def card(self) -> ModelCard:
        """Return the model's card."""
        return await self._service.card()

    async def run(self, job: ServingJob) -> JobResult | ErrorReply:
        """Run a job."""
        try:
            return await self._service.run(job)
        except RequestRefusedError as error:
            return error.refusal

    async def stream(self, job: ServingJob) -> AsyncIterator[StreamPreview | JobResult | ErrorReply]:
        """Run a job and yield previews, then the result."""
        try:
            async with aclosing(self._service.stream(job)) as events:
                async for event in events:
                    yield event
        except RequestRefusedError as error:
            yield error.refusal

    async def counters(self) -> dict[str, float]:
        """Return evaluations of rows, those of batches, active requests, memory in MiB and open files."""
        admission, process = self._service.current.batcher.admission, psutil.Process()
        return {
            "evaluations": admission.evaluations,
            "ticks": admission.ticks,
            "requests": admission.requests,
            "memory_mib": process.memory_info().rss / 2**20,
            "open_files": process.num_fds(),
        }

    async def check_health(self) -> None:
        """Raise RuntimeError if the batcher or a background task has failed; Serve then replaces the replica."""
        if not self._service.current.batcher.healthy:
            raise RuntimeError("the batcher's network evaluations keep failing")
        for task in self._background:
            if task.done():
                raise RuntimeError(f"a background task has ended: {task.exception()!r}")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the metrics for the autoscaling policy."""
        return {
            BACKLOG: self._service.current.batcher.admission.backlog_seconds,
            TARGET: self._served.target_backlog_seconds,
        }

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(METER_SECONDS)
            self._metrics.read(self._service.current.batcher.admission)

    async def __del__(self) -> None:
        """Finish the submitted jobs. Serve routes new requests to other replicas before."""
        for task in self._background:
            task.cancel()
        await self._service.close()
