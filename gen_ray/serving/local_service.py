"""A served model in this process: jobs go to the edition that is current, and editions change without a pause."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen_ray.engine.inference.batcher import BusyError, CancelledError, DeadlineExceededError, NotFiniteError, Preview
from gen_ray.errors import RunError, UserError
from gen_ray.serving.errors import TOO_LARGE_FOR_MEMORY
from gen_ray.serving.jobs import PendingJob, submit
from gen_ray.serving.limits import RequestLimits
from gen_ray.serving.loaded_model import LoadedModel
from gen_ray.serving.service import ErrorReply, JobResult, ModelCard, RequestRefusedError, ServingJob, StreamPreview
from gen_ray.serving.sources import VersionSource
from gen_ray.tracking.release import Release

LOG = logging.getLogger("gen_ray.serving")
RETRY_SECONDS = 300.0
"""After this long a version that could not be served is tried again."""
LATE = ErrorReply(status=504, code="deadline", message="deadline_seconds: it was not done by then")


class LocalModelService:
    """A Desk. ``await open()`` first; ``follow()`` runs beside; ``close()`` last."""

    def __init__(
        self,
        id: str,
        source: VersionSource,
        *,
        device: torch.device,
        limits: RequestLimits | None = None,
        told: Callable[[JobResult | ErrorReply, ServingJob], None] = lambda outcome, job: None,
        **batching: Any,
    ) -> None:
        """Serve id from source; batching goes to Batcher; told hears of every job's end."""
        self.id, self.source, self.device, self.limits = id, source, device, limits or RequestLimits()
        self._batching, self._told = batching, told
        self._edition: LoadedModel | None = None
        self._failed: tuple[Release, float] | None = None
        self.trouble: str | None = None

    @property
    def edition(self) -> LoadedModel:
        """Return what is served now. Raise RefusedError where nothing is yet."""
        if self._edition is None:
            raise RequestRefusedError(
                ErrorReply(status=503, code="unavailable", message=f"{self.id}: is not ready yet")
            )
        return self._edition

    # ---- editions ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the newest version. Raise UserError or RunError where it cannot be served."""
        release = await asyncio.to_thread(self.source.newest)
        self._edition = await asyncio.to_thread(self._load, release)
        LOG.info("%s: version %s is served", self.id, release.version)

    def _load(self, release: Release) -> LoadedModel:
        folder: Path = self.source.fetch(release)
        return LoadedModel.open(self.id, release, folder, self.device, self.limits, **self._batching)

    async def follow(self, every_seconds: float) -> None:
        """Look for a newer version again and again, for ever; whatever goes wrong, the present one stays."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.renew()

    async def renew(self) -> None:
        """Serve the newest version if it is another one: load and check it beside the present one, then change.

        Requests on the present one end on it. One that cannot be served leaves it in place and is told in the card.
        """
        present = self.edition
        try:
            release = await asyncio.to_thread(self.source.newest)
        except Exception as error:  # whatever it is, it is no reason to stop serving
            self._stay("newer versions cannot be looked for", error)
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
        self._edition, self.trouble, self._failed = newer, None, None
        LOG.info("%s: version %s is served, was %s", self.id, release.version, present.release.version)
        await asyncio.to_thread(present.close)

    def _stay(self, what: str, error: Exception) -> None:
        trouble = f"{what}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        if trouble != self.trouble:  # once, not every time
            LOG.error("%s: stays at version %s, %s", self.id, self.edition.release.version, trouble)
        self.trouble = trouble

    async def close(self) -> None:
        """Finish what was begun."""
        if self._edition is not None:
            await asyncio.to_thread(self._edition.close)

    # ---- jobs --------------------------------------------------------------------------------------------------------

    async def card(self) -> ModelCard:
        """Return what is known of the model."""
        return self.edition.card(trouble=self.trouble)

    async def run(self, job: ServingJob) -> JobResult:
        """Do a job. Raise RefusedError. Cancelling this gives the job up within one network evaluation."""
        edition = self.edition
        asked = self._ask(edition, job, None)
        return await self._answer(edition, asked, job)

    async def stream(self, job: ServingJob) -> AsyncGenerator[StreamPreview | JobResult, None]:
        """Do a job and yield looks at it on the way; the answer comes last. Raise RefusedError."""
        edition, loop = self.edition, asyncio.get_running_loop()
        looks: asyncio.Queue[Preview | None] = asyncio.Queue()

        def show(look: Preview | None) -> None:
            loop.call_soon_threadsafe(looks.put_nowait, look)

        asked = self._ask(edition, job, show)
        asked.ticket.future.add_done_callback(lambda _: show(None))
        try:
            while (look := await looks.get()) is not None:
                yield StreamPreview(done=look.done, total=look.total, samples=asked.view(look.samples))
            yield await self._answer(edition, asked, job)
        finally:
            asked.ticket.cancel_request()

    def _ask(self, edition: LoadedModel, job: ServingJob, watch: Callable[[Preview], None] | None) -> PendingJob:
        deadline = time.monotonic() + min(job.deadline_seconds, self.limits.deadline_seconds)
        try:
            return submit(edition, job, deadline, watch)
        except (BusyError, UserError, RequestRefusedError) as error:
            raise self._refused(error, job) from None

    async def _answer(self, edition: LoadedModel, asked: PendingJob, job: ServingJob) -> JobResult:
        try:
            answer = _answer(edition, asked, job, await asyncio.wrap_future(asked.ticket.future))
        except asyncio.CancelledError:
            asked.ticket.cancel_request()
            raise
        except Exception as error:
            raise self._refused(error, job) from error
        self._told(answer, job)
        return answer

    def _refused(self, error: Exception, job: ServingJob) -> RequestRefusedError:
        refused = error_reply(error)
        if refused.status == 500 and not isinstance(error, NotFiniteError):
            LOG.error("%s: request %s failed", self.id, job.request_id, exc_info=error)
        elif isinstance(error, MemoryError):
            LOG.warning("%s: request %s: %s", self.id, job.request_id, error)
        self._told(refused, job)
        return RequestRefusedError(refused)


def _answer(edition: LoadedModel, asked: PendingJob, job: ServingJob, found: Any) -> JobResult:
    notes: Mapping[str, Any] = asked.notes(found)
    arrays = asked.arrays(found)
    for name, values in arrays.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise NotFiniteError(f"{name} is not finite")
    return JobResult(
        arrays=arrays,
        version=edition.release.version,
        sampler=asked.sampler,
        steps=asked.steps,
        nfe=int(notes.get("nfe", asked.nfe)),
        seed=job.seed,
        queued_seconds=asked.ticket.queued_seconds,
        computed_seconds=asked.ticket.computed_seconds,
        notes={key: value for key, value in notes.items() if key != "nfe"},
    )


def error_reply(error: Exception) -> ErrorReply:
    """Return what an error says to whoever asked."""
    if isinstance(error, RequestRefusedError):
        return error.refusal
    if isinstance(error, BusyError):
        return ErrorReply(status=429, code="busy", message=str(error), retry_after_seconds=error.retry_after_seconds)
    for kind, known in ERROR_REPLIES.items():
        if isinstance(error, kind):
            return known(str(error))
    return ErrorReply(status=500, code="internal", message="the model failed; the server's log says how")


ERROR_REPLIES: Mapping[type[Exception], Callable[[str], ErrorReply]] = {
    UserError: lambda line: ErrorReply(status=422, code="invalid", message=line),
    RunError: lambda line: ErrorReply(status=503, code="unavailable", message=line),
    DeadlineExceededError: lambda _: LATE,
    CancelledError: lambda line: ErrorReply(status=499, code="cancelled", message=line),
    MemoryError: lambda _: TOO_LARGE_FOR_MEMORY,
    NotFiniteError: lambda line: ErrorReply(status=500, code="not_finite", message=line),
}
