"""From a request to its response: find the desk, hold the request against its card, have it done, write it down."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial

from fastapi import Request
from starlette.responses import Response

from gen_ray.errors import nearest
from gen_ray.serving import answers, events
from gen_ray.serving.access import Record, record_of
from gen_ray.serving.answers import Result
from gen_ray.serving.checks import check
from gen_ray.serving.deadline import Attendance
from gen_ray.serving.errors import standing
from gen_ray.serving.sampling import Sampling
from gen_ray.serving.schemas_base import Body
from gen_ray.serving.service import Answer, Card, Desk, Job, Preview
from gen_ray.serving.settings import Settings

EXACT = 2**53
"""Seeds drawn here are below: the largest whole numbers that every reader of JSON, JavaScript's too, gets right."""

Desks = Mapping[str, Desk] | Callable[[], Mapping[str, Desk]]


class Counter:
    """The desks, by name, and what happens at them."""

    def __init__(self, desks: Desks, settings: Settings) -> None:
        """Keep the desks; a function is asked for them at every request, so that models may come and go."""
        self._desks, self.settings = desks, settings

    @property
    def desks(self) -> Mapping[str, Desk]:
        """Return the desks there are now."""
        return self._desks() if callable(self._desks) else self._desks

    def desk(self, name: str) -> Desk:
        """Return a desk. Raise RefusedError 404."""
        desks = self.desks
        if name not in desks:
            raise standing(404, f"there is no model of that name; {nearest(name[:64], desks)}")
        return desks[name]

    async def card(self, name: str) -> Card:
        """Return what is known of a model. Raise RefusedError 404, and 503 where it does not say so in time."""
        try:
            async with asyncio.timeout(self.settings.card_seconds):
                return await self.desk(name).card()
        except TimeoutError:
            raise standing(503, "the model does not answer") from None

    async def serve(self, request: Request, name: str, body: Body) -> Response:
        """Return the response to a request. Raise RefusedError."""
        record, desk, card = record_of(request.scope), self.desk(name), await self.card(name)
        check(body, card, self.settings)
        arrays = await asyncio.to_thread(body.arrays, card, self.settings.picture_pixels)
        job = Job(
            request_id=record.request_id,
            verb=body.verb,
            key=record.key,
            seed=secrets.randbelow(EXACT) if body.seed is None else body.seed,
            deadline_seconds=body.deadline_seconds or self.settings.deadline_seconds,
            **body.asked(),
            **arrays,
        )
        record.told.update(model=name, version=card.version, seed=job.seed)
        attendance = Attendance(request.receive, job.deadline_seconds)
        if isinstance(body, Sampling) and body.stream:
            items = events.told(desk.stream(job), attendance, self.settings.keep_alive_seconds)
            return await _streamed(items, partial(_event, name, card, body.format, record), attendance, record)
        async with attendance:
            answer = await attendance.result(desk.run(job))
        result = _noted(Result(model=name, spec=card.spec, answer=answer, request_id=record.request_id), record)
        return await asyncio.to_thread(answers.respond, result, body.format)


async def _streamed(
    items: AsyncGenerator[Preview | Answer | None, None],
    show: Callable[[Preview | Answer], bytes],
    attendance: Attendance,
    record: Record,
) -> Response:
    try:
        return events.Events(await events.begun(items, show, record), attendance)
    except BaseException:
        attendance.end()
        raise


def _event(name: str, card: Card, form: str, record: Record, item: Preview | Answer) -> bytes:
    if isinstance(item, Preview):
        return events.event("preview", events.looked_at(item, card.spec))
    result = _noted(Result(model=name, spec=card.spec, answer=item, request_id=record.request_id), record)
    answers.check(result)
    return events.event("result", answers.said(result, form))


def _noted(result: Result, record: Record) -> Result:
    record.told.update(version=result.answer.version, nfe=result.answer.nfe)
    return result
