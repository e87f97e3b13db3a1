"""A model service in this process: it runs jobs on the current version and changes versions without a pause."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen_ray.engine.inference.batcher import BusyError, CancelledError, DeadlineExceededError, NotFiniteError, Preview
from gen_ray.errors import RunError, UserError, one_line
from gen_ray.serving.errors import TOO_LARGE_FOR_MEMORY
from gen_ray.serving.jobs import PendingJob
from gen_ray.serving.loaded_model import LoadedModel
from gen_ray.serving.service import (
    ErrorReply,
    JobResult,
    ModelCard,
    RequestLimits,
    RequestRefusedError,
    ServingJob,
    StreamPreview,
)
from gen_ray.serving.table_jobs import CellStatistics
from gen_ray.serving.verbs import VERBS, supported_verbs
from gen_ray.tracking.release import Release
from gen_ray.tracking.sources import VersionSource

LOG = logging.getLogger("gen_ray.serving")
RETRY_SECONDS = 300.0
"""Time after which loading a version that failed is tried again."""
LATE = ErrorReply(status=504, code="deadline", message="deadline_seconds: the job was not finished in time")


class LocalModelService:
    """A ModelService in this process. Call ``open`` first and ``close`` last; ``follow`` runs in the background."""

    def __init__(
        self,
        id: str,
        source: VersionSource,
        *,
        device: torch.device,
        limits: RequestLimits | None = None,
        on_finished: Callable[[JobResult | ErrorReply, ServingJob], None] = lambda outcome, job: None,
        **batching: Any,
    ) -> None:
        """Serve versions of source as id.

        on_finished is called with the outcome of each job; batching are options of Batcher.
        """
        self.id, self.source, self.device, self.limits = id, source, device, limits or RequestLimits()
        self._batching, self._on_finished = batching, on_finished
        self._current: LoadedModel | None = None
        self._failed: tuple[Release, float] | None = None
        self.trouble: str | None = None

    @property
    def current(self) -> LoadedModel:
        """Return the version that is served now. Raise RequestRefusedError 503 if none is loaded yet."""
        if self._current is None:
            raise RequestRefusedError(
                ErrorReply(status=503, code="unavailable", message=f"{self.id}: the model is not ready yet; try again")
            )
        return self._current

    # ---- versions ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the newest version. Raise UserError or RunError if it cannot be served."""
        release = await asyncio.to_thread(self.source.newest)
        self._current = await asyncio.to_thread(self._load, release)
        LOG.info("%s: serving version %s", self.id, release.version)

    def _load(self, release: Release) -> LoadedModel:
        folder: Path = self.source.fetch(release)
        return LoadedModel.open(self.id, release, folder, self.device, self.limits, supported_verbs, **self._batching)

    async def follow(self, every_seconds: float) -> None:
        """Check for a newer version periodically, without end. After any error the present version stays."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.renew()

    async def renew(self) -> None:
        """Serve the newest version if it differs: load and check it while the present one serves, then switch.

        Requests are completed by the version on which they started. If the newest version cannot be served, the present
        one stays, and the card reports the reason.
        """
        present = self.current
        try:
            release = await asyncio.to_thread(self.source.newest)
        except Exception as error:  # no error here is a reason to stop serving
            self._stay("cannot check for newer versions", error)
            return
        if release == present.release:
            self.trouble = self._failed = None
        elif self._failed is None or self._failed[0] != release or time.monotonic() > self._failed[1]:
            await self._change(present, release)

    async def _change(self, present: LoadedModel, release: Release) -> None:
        try:
            newer = await asyncio.to_thread(self._load, release)
        except Exception as error:
            self._failed = (release, time.monotonic() + RETRY_SECONDS)
            self._stay(f"version {release.version} is not served", error)
            return
        self._current, self.trouble, self._failed = newer, None, None
        LOG.info("%s: serving version %s instead of %s", self.id, release.version, present.release.version)
        await asyncio.to_thread(present.close)

    def _stay(self, consequence: str, error: Exception) -> None:
        trouble = f"{consequence}: {one_line(error, 300)}"
        if trouble != self.trouble:  # log each reason once
            LOG.error("%s: keeping version %s: %s", self.id, self.current.release.version, trouble)
        self.trouble = trouble

    async def close(self) -> None:
        """Finish the submitted jobs and release the network."""
        if self._current is not None:
            await asyncio.to_thread(self._current.close)

    # ---- jobs --------------------------------------------------------------------------------------------------------

    async def card(self) -> ModelCard:
        """Return the card of the current version."""
        return self.current.card(trouble=self.trouble)

    async def run(self, job: ServingJob) -> JobResult:
        """Run a job. Raise RequestRefusedError. Cancelling the task stops the job within one network evaluation."""
        loaded = self.current
        pending = self._submit(loaded, job, None)
        return await self._result(loaded, pending, job)

    async def stream(self, job: ServingJob) -> AsyncGenerator[StreamPreview | JobResult, None]:
        """Run a job and yield previews, then the result. Raise RequestRefusedError."""
        loaded, loop = self.current, asyncio.get_running_loop()
        previews: asyncio.Queue[Preview | None] = asyncio.Queue()

        def show(preview: Preview | None) -> None:
            loop.call_soon_threadsafe(previews.put_nowait, preview)

        pending = self._submit(loaded, job, show)
        pending.handle.future.add_done_callback(lambda _: show(None))
        try:
            while (preview := await previews.get()) is not None:
                yield StreamPreview(done=preview.done, total=preview.total, samples=pending.view(preview.samples))
            yield await self._result(loaded, pending, job)
        finally:
            pending.cancel()

    def _submit(self, loaded: LoadedModel, job: ServingJob, watch: Callable[[Preview], None] | None) -> PendingJob:
        deadline = time.monotonic() + min(job.deadline_seconds, self.limits.deadline_seconds)
        try:
            return VERBS[job.verb].submit(loaded, job, deadline, watch)
        except (BusyError, UserError, RequestRefusedError) as error:
            raise self._refused(error, job) from None

    async def _result(self, loaded: LoadedModel, pending: PendingJob, job: ServingJob) -> JobResult:
        try:
            answer = _job_result(loaded, pending, job, await asyncio.wrap_future(pending.handle.future))
            answer = replace(answer, imputed=await _statistics(pending))
        except asyncio.CancelledError:
            pending.cancel()
            raise
        except Exception as error:
            pending.cancel()
            raise self._refused(error, job) from error
        self._on_finished(answer, job)
        return answer

    def _refused(self, error: Exception, job: ServingJob) -> RequestRefusedError:
        refused = error_reply(error)
        if refused.status == 500 and not isinstance(error, NotFiniteError):
            LOG.error("%s: request %s failed", self.id, job.request_id, exc_info=error)
        elif isinstance(error, MemoryError):
            LOG.warning("%s: request %s: %s", self.id, job.request_id, error)
        self._on_finished(refused, job)
        return RequestRefusedError(refused)


async def _statistics(pending: PendingJob) -> CellStatistics:
    """Return the statistics of a table's missing cells, if the job has them."""
    if pending.statistics is not None:
        found: CellStatistics = await asyncio.wrap_future(pending.statistics.future)
        return found
    if pending.drawn_statistics is None:
        return ()
    return await asyncio.to_thread(pending.drawn_statistics, pending.handle.future.result())


def _job_result(loaded: LoadedModel, pending: PendingJob, job: ServingJob, result: Any) -> JobResult:
    notes: Mapping[str, Any] = pending.notes(result)
    arrays = pending.arrays(result)
    for name, values in arrays.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise NotFiniteError(f"{name} is not finite")
    return JobResult(
        arrays=arrays,
        version=loaded.release.version,
        sampler=notes.get("sampler", pending.sampler),
        steps=notes.get("steps", pending.steps),
        nfe=int(notes.get("nfe", pending.nfe)),
        seed=job.seed,
        queued_seconds=pending.handle.queued_seconds,
        computed_seconds=pending.handle.computed_seconds,
        notes={key: value for key, value in notes.items() if key not in ("sampler", "steps", "nfe")},
    )


def error_reply(error: Exception) -> ErrorReply:
    """Return the reply to the client for an error."""
    if isinstance(error, RequestRefusedError):
        return error.refusal
    if isinstance(error, BusyError):
        return ErrorReply(status=429, code="busy", message=str(error), retry_after_seconds=error.retry_after_seconds)
    for kind, known in ERROR_REPLIES.items():
        if isinstance(error, kind):
            return known(str(error))
    return ErrorReply(status=500, code="internal", message="the model failed; the server's log has details")


ERROR_REPLIES: Mapping[type[Exception], Callable[[str], ErrorReply]] = {
    UserError: lambda line: ErrorReply(status=422, code="invalid", message=line),
    RunError: lambda line: ErrorReply(status=503, code="unavailable", message=line),
    DeadlineExceededError: lambda _: LATE,
    CancelledError: lambda line: ErrorReply(status=499, code="cancelled", message=line),
    MemoryError: lambda _: TOO_LARGE_FOR_MEMORY,
    NotFiniteError: lambda line: ErrorReply(status=500, code="not_finite", message=line),
}
