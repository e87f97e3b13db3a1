"""A model service behind a Ray Serve handle."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from gen_ray.serving.service import ErrorReply, JobResult, ModelCard, RequestRefusedError, ServingJob, StreamPreview

MAX_ATTEMPTS = 3
"""Attempts per job. A job is a function of its seed, so another replica can repeat it if one dies."""
CARD_SECONDS = 1.0
"""Seconds for which a card is cached: every request needs it, and it changes only with the version."""
UNREACHABLE = ErrorReply(
    status=503, code="unavailable", message="the model cannot be reached; try again", retry_after_seconds=1.0
)
OVERLOADED = ErrorReply(status=429, code="busy", message="too many requests are waiting", retry_after_seconds=1.0)


class RayModelService:
    """A ModelService that sends jobs to the replicas of a deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        """Send jobs by a handle, which follows changes of the replicas."""
        self._handle = handle
        self._streams = handle.options(stream=True)
        self._card: tuple[float, ModelCard] | None = None

    async def card(self) -> ModelCard:
        """Return the model's card, at most CARD_SECONDS old. Raise RequestRefusedError if no replica is ready."""
        if self._card is None or time.monotonic() > self._card[0] + CARD_SECONDS:
            card: ModelCard = await self._call("card")
            self._card = (time.monotonic(), card)
        return self._card[1]

    async def run(self, job: ServingJob) -> JobResult:
        """Run a job. Raise RequestRefusedError."""
        outcome: JobResult | ErrorReply = await self._call("run", job)
        if isinstance(outcome, ErrorReply):
            raise RequestRefusedError(outcome)
        return outcome

    async def _call(self, method: str, *args: Any) -> Any:
        for remaining in reversed(range(MAX_ATTEMPTS)):
            response = getattr(self._handle, method).remote(*args)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except BackPressureError:
                raise RequestRefusedError(OVERLOADED) from None
            except (RayActorError, DeploymentUnavailableError) as error:
                if not remaining:
                    raise RequestRefusedError(UNREACHABLE) from error
                await asyncio.sleep(0.2)
            except (RayServeException, RayError) as error:
                raise RequestRefusedError(UNREACHABLE) from error
        raise AssertionError("unreachable")

    async def stream(self, job: ServingJob) -> AsyncIterator[StreamPreview | JobResult]:
        """Run a job and yield previews, then the result. Raise RequestRefusedError; a stream is not retried."""
        events = self._streams.stream.remote(job)
        try:
            async for event in events:
                if isinstance(event, ErrorReply):
                    raise RequestRefusedError(event)
                yield event
        except BackPressureError:
            raise RequestRefusedError(OVERLOADED) from None
        except (RayServeException, RayError) as error:
            raise RequestRefusedError(UNREACHABLE) from error
        finally:
            events.cancel()
