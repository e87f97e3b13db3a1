"""From a request to its response: find the desk, hold the request against its card, have it done, write it down."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial

from fastapi import Request
from starlette.responses import Response

from gen_ray.errors import nearest
from gen_ray.serving import answers, events
from gen_ray.serving.access import AccessRecord, record_of
from gen_ray.serving.answers import ResultView
from gen_ray.serving.checks import check
from gen_ray.serving.deadline import DeadlineGuard
from gen_ray.serving.errors import http_error
from gen_ray.serving.sampling import SamplingBody
from gen_ray.serving.schemas_base import Body
from gen_ray.serving.service import JobResult, ModelCard, ModelService, ServingJob, StreamPreview
from gen_ray.serving.settings import ApiSettings

EXACT = 2**53
"""Seeds drawn here are below: the largest whole numbers that every reader of JSON, JavaScript's too, gets right."""

ModelServices = Mapping[str, ModelService] | Callable[[], Mapping[str, ModelService]]


class RequestHandler:
    """The desks, by name, and what happens at them."""

    def __init__(self, desks: ModelServices, settings: ApiSettings) -> None:
        """Keep the desks; a function is asked for them at every request, so that models may come and go."""
        self._desks, self.settings = desks, settings

    @property
    def services(self) -> Mapping[str, ModelService]:
        """Return the desks there are now."""
        return self._desks() if callable(self._desks) else self._desks

    def service(self, name: str) -> ModelService:
        """Return a desk. Raise RefusedError 404."""
        desks = self.services
        if name not in desks:
            raise http_error(404, f"there is no model of that name; {nearest(name[:64], desks)}")
        return desks[name]

    async def card(self, name: str) -> ModelCard:
        """Return what is known of a model. Raise RefusedError 404, and 503 where it does not say so in time."""
        try:
            async with asyncio.timeout(self.settings.card_seconds):
                return await self.service(name).card()
        except TimeoutError:
            raise http_error(503, "the model does not answer") from None

    async def serve(self, request: Request, name: str, body: Body) -> Response:
        """Return the response to a request. Raise RefusedError."""
        record, desk, card = record_of(request.scope), self.service(name), await self.card(name)
        check(body, card, self.settings)
        arrays = await asyncio.to_thread(body.arrays, card, self.settings.picture_pixels)
        job = ServingJob(
            request_id=record.request_id,
            verb=body.verb,
            key=record.key,
            seed=secrets.randbelow(EXACT) if body.seed is None else body.seed,
            deadline_seconds=body.deadline_seconds or self.settings.deadline_seconds,
            **body.asked(),
            **arrays,
        )
        record.told.update(model=name, version=card.version, seed=job.seed)
        attendance = DeadlineGuard(request.receive, job.deadline_seconds)
        if isinstance(body, SamplingBody) and body.stream:
            items = events.with_heartbeat(desk.stream(job), attendance, self.settings.keep_alive_seconds)
            return await _streamed(items, partial(_event, name, card, body.format, record), attendance, record)
        async with attendance:
            answer = await attendance.result(desk.run(job))
        result = _record_result(
            ResultView(model=name, spec=card.spec, answer=answer, request_id=record.request_id), record
        )
        return await asyncio.to_thread(answers.respond, result, body.format)


async def _streamed(
    items: AsyncGenerator[StreamPreview | JobResult | None, None],
    show: Callable[[StreamPreview | JobResult], bytes],
    attendance: DeadlineGuard,
    record: AccessRecord,
) -> Response:
    try:
        return events.EventStream(await events.start_stream(items, show, record), attendance)
    except BaseException:
        attendance.end()
        raise


def _event(name: str, card: ModelCard, form: str, record: AccessRecord, item: StreamPreview | JobResult) -> bytes:
    if isinstance(item, StreamPreview):
        return events.event("preview", events.preview_json(item, card.spec))
    result = _record_result(ResultView(model=name, spec=card.spec, answer=item, request_id=record.request_id), record)
    answers.check(result)
    return events.event("result", answers.result_json(result, form))


def _record_result(result: ResultView, record: AccessRecord) -> ResultView:
    record.told.update(version=result.answer.version, nfe=result.answer.nfe)
    return result
