"""Streams: server-sent events of how samples come about, the result last, or else why there is none."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gen_ray.dataspec import DataSpec
from gen_ray.serving import pictures
from gen_ray.serving.access import AccessRecord, log_error
from gen_ray.serving.answers import sample_lists
from gen_ray.serving.deadline import DeadlineGuard, cancel
from gen_ray.serving.errors import error_body
from gen_ray.serving.service import JobResult, StreamPreview

Item = StreamPreview | JobResult
AHEAD = 4
"""Events kept for a client that reads slowly; beyond that the work waits."""
GRACE_SECONDS = 5.0
"""Beyond the deadline, for a last event to say that it was missed."""
ALIVE = b": still at work\n\n"


class EventStream(Response):
    """A response of events, each sent as it comes, while the client is there and the deadline is not over."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], attendance: DeadlineGuard) -> None:
        """Take what is to be sent."""
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.events, self.attendance = events, attendance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them. A client that is gone, or does not read, ends it in the middle."""
        async with self.attendance, aclosing(self.events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for body in events:
                message = {"type": "http.response.body", "body": body, "more_body": True}
                await self.attendance.result(_sent(send, message), grace_seconds=GRACE_SECONDS)
        await send({"type": "http.response.body", "body": b""})


async def start_stream(
    items: AsyncGenerator[Item | None, None], show: Callable[[Item], bytes], record: AccessRecord
) -> AsyncGenerator[bytes, None]:
    """Return the events of items, once there is a first one. Raise RefusedError where there is none."""
    async for first in items:
        if first is not None:
            return _events(first, items, show, record)
    raise RuntimeError("the stream ended before it began")


async def with_heartbeat(
    items: AsyncIterator[Item], attendance: DeadlineGuard, every: float
) -> AsyncGenerator[Item | None, None]:
    """Yield items as they come, and None after each silence of some seconds. Raise RefusedError, and what items raise.

    They are read in a task of their own, so that whoever makes them is cancelled at once, wherever it is.
    """
    queue: asyncio.Queue[Item | Exception] = asyncio.Queue(AHEAD)
    reader = asyncio.ensure_future(_read(items, queue))
    try:
        while True:
            coming = asyncio.ensure_future(queue.get())
            try:
                while not await attendance.done(coming, every):
                    yield None
            finally:
                cancel(coming)
            item = coming.result()
            if isinstance(item, StopAsyncIteration):
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        cancel(reader)


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """Return one event."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False, separators=(',', ':'))}\n\n".encode()


def preview_json(preview: StreamPreview, spec: DataSpec) -> dict[str, Any]:
    """Return a preview as JSON: base64 PNGs, grey where nothing is decided; texts with · there; or lists with −1."""
    facts = {"done": preview.done, "total": preview.total}
    samples = preview.samples.reshape(-1, *spec.shape)
    if pictures.drawable(spec):
        return {**facts, "images": pictures.encode_pictures(samples, levels=spec.levels)}
    if spec.is_text:
        # −1 is the last character of an alphabet that ends in a dot
        return {**facts, "texts": sample_lists(samples, spec.model_copy(update={"alphabet": spec.alphabet + "·"}))}
    return {**facts, "samples": samples.tolist()}


async def _events(
    first: Item, items: AsyncGenerator[Item | None, None], show: Callable[[Item], bytes], record: AccessRecord
) -> AsyncGenerator[bytes, None]:
    """Yield events, the last of which says what went wrong, if anything did."""
    try:
        async with aclosing(items):
            last: Item | None = first
            yield await asyncio.to_thread(show, first)
            async for item in items:
                last = item or last
                yield ALIVE if item is None else await asyncio.to_thread(show, item)
        if not isinstance(last, JobResult):
            raise RuntimeError("the stream ended without an answer")
        return
    except Exception as error:
        refusal = log_error(error, record)
    yield event("error", {**error_body(refusal, record.request_id), "status": refusal.status})


async def _read(items: AsyncIterator[Item], queue: "asyncio.Queue[Item | Exception]") -> None:
    try:
        async for item in items:
            await queue.put(item)
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(StopAsyncIteration())


async def _sent(send: Send, message: Message) -> None:
    await send(message)
