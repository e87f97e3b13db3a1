"""The request handler: finds the model service, checks the request, runs the job and formats the response."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from gen_ray.engine.inference.instances import InstanceError
from gen_ray.engine.inference.table_rows import GivenRows
from gen_ray.errors import nearest
from gen_ray.serving import connection, responses
from gen_ray.serving.access_log import AccessRecord, record_of
from gen_ray.serving.connection import DeadlineGuard
from gen_ray.serving.errors import http_error, invalid_request
from gen_ray.serving.responses import FORMATS, ResultView
from gen_ray.serving.result_schemas import SamplesSchema
from gen_ray.serving.schemas import ImputeBody, RequestBody, SampleBody, SamplingBody
from gen_ray.serving.service import JobResult, ModelCard, ModelService, ServingJob, StreamPreview
from gen_ray.serving.settings import ApiSettings
from gen_ray.serving.verbs import Verb

MAX_SEED = 2**53
"""Upper bound of the seeds drawn here: JSON readers, JavaScript's too, represent integers below it exactly."""

ModelServices = Mapping[str, ModelService] | Callable[[], Mapping[str, ModelService]]


class RequestHandler:
    """The model services by name, and the processing of requests to them."""

    def __init__(self, services: ModelServices, settings: ApiSettings) -> None:
        """Handle requests to services. A function is called for each request, so that models may change."""
        self._services, self.settings = services, settings

    @property
    def services(self) -> Mapping[str, ModelService]:
        """Return the current model services by name."""
        return self._services() if callable(self._services) else self._services

    def service(self, name: str) -> ModelService:
        """Return the service of a model. Raise RequestRefusedError 404."""
        services = self.services
        if name not in services:
            raise http_error(404, f"no such model; {nearest(name[:64], services)}")
        return services[name]

    async def card(self, name: str) -> ModelCard:
        """Return a model's card.

        Raise RequestRefusedError 404, or 503 if the model does not respond within card_seconds.
        """
        try:
            async with asyncio.timeout(self.settings.card_seconds):
                return await self.service(name).card()
        except TimeoutError:
            raise http_error(503, "the model does not respond; try again") from None

    async def serve(self, request: Request, name: str, verb: Verb, body: RequestBody) -> Response:
        """Run the job of a request and return its response. Raise RequestRefusedError."""
        record, service, card = record_of(request.scope), self.service(name), await self.card(name)
        check_request(verb, body, card, self.settings)
        arrays, given = await asyncio.to_thread(_inputs, body, card, self.settings.picture_pixels)
        job = ServingJob(
            request_id=record.request_id,
            verb=verb.name,
            key=record.key,
            seed=secrets.randbelow(MAX_SEED) if body.seed is None else body.seed,
            deadline_seconds=body.deadline_seconds or self.settings.deadline_seconds,
            **body.job_fields(),
            **arrays,
        )
        record.facts.update(model=name, version=card.version, seed=job.seed)
        guard = DeadlineGuard(request.receive, job.deadline_seconds)
        view = partial(
            ResultView,
            model=name,
            spec=card.spec,
            request_id=record.request_id,
            given=given,
            keeps_given=isinstance(body, SamplingBody),
        )
        if isinstance(body, SamplingBody) and body.stream:
            items = connection.with_heartbeat(service.stream(job), guard, self.settings.keep_alive_seconds)
            preview = partial(connection.preview_json, spec=card.spec, seed=job.seed, given=given)
            return await _streamed(items, partial(_event, view, preview, body.format, record), guard, record)
        async with guard:
            answer = await guard.result(service.run(job))
        result = _record_result(view(answer=answer), record)
        return await asyncio.to_thread(responses.respond, result, body.format)


def _inputs(body: RequestBody, card: ModelCard, pixels: int) -> tuple[Mapping[str, Any], GivenRows | None]:
    """Return the arrays of a body, and its rows if it has rows of a table.

    Raise RequestRefusedError 422 with the field's name.
    """
    try:
        rows = body.table_rows(card)
        if rows is None:
            return body.arrays(card, pixels), None
        _check_size(body, rows, card)
        codes = rows.codes.astype(card.spec.storage_dtype)
        return {"x": codes, "mask": rows.known, "conditions": rows.conditions}, rows
    except InstanceError as error:
        remedy = ": send one of that size, or resize: true" if error.scalable else ""
        code = "too_much" if error.too_large else "invalid"
        raise invalid_request(f"{error.field}: {error.reason}{remedy}", code=code) from None


async def _streamed(
    items: AsyncGenerator[StreamPreview | JobResult | None, None],
    show: Callable[[StreamPreview | JobResult], bytes],
    guard: DeadlineGuard,
    record: AccessRecord,
) -> Response:
    try:
        return connection.EventStream(await connection.start_stream(items, show, record), guard)
    except BaseException:
        guard.end()
        raise


def _event(
    view: Callable[..., ResultView],
    preview: Callable[[StreamPreview], Mapping[str, Any]],
    form: str,
    record: AccessRecord,
    item: StreamPreview | JobResult,
) -> bytes:
    if isinstance(item, StreamPreview):
        return connection.event("preview", preview(item))
    result = _record_result(view(answer=item), record)
    responses.check_values(result)
    return connection.event("result", responses.result_json(result, form))


def _record_result(result: ResultView, record: AccessRecord) -> ResultView:
    record.facts.update(version=result.answer.version, nfe=result.answer.nfe)
    return result


MAX_REPEATED_BYTES = 2**25
"""Maximum bytes of given values in a response, which has them once for each completion."""
MAX_JSON_NUMBERS = 5_000_000
"""Maximum numbers in a response in format json: Python numbers take eight times the memory of an array."""


def check_request(verb: Verb, body: RequestBody, card: ModelCard, settings: ApiSettings) -> None:
    """Raise RequestRefusedError 503 if the model is not ready, 422 if it cannot do what the request asks."""
    if not card.ready:
        raise http_error(503)
    if verb.name not in card.verbs:
        raise invalid_request(f"the model does not support {verb.name}; supported: {', '.join(card.verbs)}")
    unsuitable = FORMATS[body.format].unsuitable(card.spec)
    if unsuitable:
        raise invalid_request(f"format: {unsuitable}")
    if (body.deadline_seconds or 0) > settings.longest_deadline_seconds:
        raise invalid_request(f"deadline_seconds: at most {settings.longest_deadline_seconds:g}")
    most = card.limits.get("n", body.count)
    if body.count > most:
        raise invalid_request(f"at most {most:g} instances for this model", code="too_much")
    rows = body.n * max(1, body.count) if isinstance(body, SamplingBody) else body.count
    if issubclass(verb.result, SamplesSchema):
        _check_numbers(body, rows * card.spec.dims)
    if isinstance(body, SamplingBody):
        _check_sampling(body, card)


def _check_numbers(body: RequestBody, numbers: int) -> None:
    if body.format == "json" and numbers > MAX_JSON_NUMBERS:
        raise invalid_request(
            f"format: a json response has at most {MAX_JSON_NUMBERS:,} numbers; ask for npz, or for fewer samples",
            code="too_much",
        )


def _check_size(body: RequestBody, rows: GivenRows, card: ModelCard) -> None:
    """Raise RequestRefusedError 422 if the response would be too large, because it repeats the rows n times."""
    if not isinstance(body, SamplingBody):
        return
    _check_numbers(body, body.n * len(rows) * card.spec.dims)
    if body.n * rows.nbytes > MAX_REPEATED_BYTES:
        raise invalid_request(
            f"n: the response would repeat values of {rows.nbytes:,} bytes {body.n:,} times; the maximum is "
            f"{MAX_REPEATED_BYTES:,} bytes in all",
            code="too_much",
        )


def _check_sampling(body: SamplingBody, card: ModelCard) -> None:
    known = card.imputers if isinstance(body, ImputeBody) else card.samplers
    name = (body.sampler or "").partition(":")[0]
    if body.sampler is not None and name not in known:
        raise invalid_request(f"sampler: unknown name; {nearest(name, known)}")
    if isinstance(body, SampleBody) and body.quality is not None and body.quality not in card.quality:
        raise invalid_request(
            "quality: this version has no curve; gen-ray promote measures one for models:/NAME@champion. "
            "Give sampler and steps"
        )
    for field, requested in (("n", body.n), ("steps", body.steps or 0)):
        if requested > card.limits.get(field, requested):
            raise invalid_request(f"{field}: at most {card.limits[field]:g} for this model", code="too_much")
