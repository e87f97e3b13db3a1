"""A Desk behind a Ray Serve handle."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from gen_ray.serving.service import ErrorReply, JobResult, ModelCard, RequestRefusedError, ServingJob, StreamPreview

TRIES = 3
"""A job is a function of its seed: where a replica dies with it, another one does it."""
CARD_SECONDS = 1.0
"""How long a card is taken to hold: every request needs one, and it changes with the version alone."""
GONE = ErrorReply(
    status=503, code="unavailable", message="the model is not reachable; try again", retry_after_seconds=1.0
)
FULL = ErrorReply(status=429, code="busy", message="too many requests are waiting", retry_after_seconds=1.0)


class RayModelService:
    """One served model in whatever replica there is room."""

    def __init__(self, handle: DeploymentHandle) -> None:
        """Ask by a handle; replicas come and go."""
        self._handle = handle
        self._streams = handle.options(stream=True)
        self._card: tuple[float, ModelCard] | None = None

    async def card(self) -> ModelCard:
        """Return what is known of the model, of late. Raise RefusedError where no replica is ready."""
        if self._card is None or time.monotonic() > self._card[0] + CARD_SECONDS:
            card: ModelCard = await self._asked("card")
            self._card = (time.monotonic(), card)
        return self._card[1]

    async def run(self, job: ServingJob) -> JobResult:
        """Do a job. Raise RefusedError."""
        outcome: JobResult | ErrorReply = await self._asked("run", job)
        if isinstance(outcome, ErrorReply):
            raise RequestRefusedError(outcome)
        return outcome

    async def _asked(self, method: str, *args: Any) -> Any:
        for left in reversed(range(TRIES)):
            response = getattr(self._handle, method).remote(*args)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except BackPressureError:
                raise RequestRefusedError(FULL) from None
            except (RayActorError, DeploymentUnavailableError) as error:
                if not left:
                    raise RequestRefusedError(GONE) from error
                await asyncio.sleep(0.2)
            except (RayServeException, RayError) as error:
                raise RequestRefusedError(GONE) from error
        raise AssertionError("unreachable")

    async def stream(self, job: ServingJob) -> AsyncIterator[StreamPreview | JobResult]:
        """Do a job and yield looks at it on the way. Raise RefusedError; a stream that has begun is not begun anew."""
        events = self._streams.stream.remote(job)
        try:
            async for event in events:
                if isinstance(event, ErrorReply):
                    raise RequestRefusedError(event)
                yield event
        except BackPressureError:
            raise RequestRefusedError(FULL) from None
        except (RayServeException, RayError) as error:
            raise RequestRefusedError(GONE) from error
        finally:
            events.cancel()
