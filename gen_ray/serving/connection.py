"""The connection to the client while a job runs: its deadline, a disconnect, and streams of server-sent events.

A job is cancelled when its client is gone or its deadline has passed. A stream has previews of the samples, then the
result or an error.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Self, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.instances import drawable
from gen_ray.engine.inference.table_rows import GivenRows
from gen_ray.serving.access_log import AccessRecord, log_error
from gen_ray.serving.errors import error_body, http_error
from gen_ray.serving.responses import encode_pictures, sample_lists
from gen_ray.serving.service import JobResult, StreamPreview
from gen_ray.serving.tables import sampled_objects

T = TypeVar("T")
Item = StreamPreview | JobResult
MAX_BUFFERED_EVENTS = 4
"""Events buffered for a client that reads slowly; when the buffer is full, the work waits."""
GRACE_SECONDS = 5.0
"""Time after the deadline in which the event that reports the missed deadline can be sent."""
HEARTBEAT = b": still at work\n\n"


class DeadlineGuard:
    """A guard that watches one request for a disconnect and a deadline. The body must have been read.

    The deadline holds even if the work ignores its cancellation, because the guard does not wait for it.
    """

    def __init__(self, receive: Receive, seconds: float) -> None:
        """Start to watch for a disconnect on receive; the deadline is in ``seconds``."""
        self.until = asyncio.get_running_loop().time() + seconds
        self.gone = asyncio.ensure_future(_left(receive))

    async def __aenter__(self) -> Self:
        """Watch until the block ends."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop watching."""
        self.end()

    def end(self) -> None:
        """Stop watching."""
        self.gone.cancel()

    async def result(self, work: Coroutine[Any, Any, T], *, grace_seconds: float = 0) -> T:
        """Return the result of work, up to ``grace_seconds`` after the deadline.

        Raise the work's error, or RequestRefusedError 499 (disconnect) or 504 (deadline).
        """
        task = asyncio.ensure_future(work)
        try:
            await self.done(task, grace_seconds=grace_seconds)
            if task.cancelled():
                raise http_error(503, "the server cancelled the work; try again")
            return task.result()
        finally:
            cancel(task)

    async def done(
        self, task: "asyncio.Future[Any]", patience: float | None = None, *, grace_seconds: float = 0
    ) -> bool:
        """Wait at most ``patience`` seconds; return whether the task is done. Raise RequestRefusedError 499 or 504."""
        left = self.until + grace_seconds - asyncio.get_running_loop().time()
        wait = left if patience is None else min(patience, left)
        await asyncio.wait({task, self.gone}, timeout=max(0.0, wait), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return True
        if self.gone.done():
            raise http_error(499)
        if wait == left:
            raise http_error(504)
        return False


class EventStream(Response):
    """A response of server-sent events, sent until the client disconnects or the deadline has passed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], guard: DeadlineGuard) -> None:
        """Send encoded events; guard watches for a disconnect and the deadline."""
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.events, self.guard = events, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. The response ends early if the client is gone or does not read."""
        async with self.guard, aclosing(self.events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for body in events:
                message = {"type": "http.response.body", "body": body, "more_body": True}
                await self.guard.result(_sent(send, message), grace_seconds=GRACE_SECONDS)
        await send({"type": "http.response.body", "body": b""})


async def start_stream(
    items: AsyncGenerator[Item | None, None], show: Callable[[Item], bytes], record: AccessRecord
) -> AsyncGenerator[bytes, None]:
    """Return the encoded events of items once the first item has arrived. Raise the error that precedes it."""
    async for first in items:
        if first is not None:
            return _events(first, items, show, record)
    raise RuntimeError("the stream ended without any item")


async def with_heartbeat(
    items: AsyncIterator[Item], guard: DeadlineGuard, every: float
) -> AsyncGenerator[Item | None, None]:
    """Yield items as they arrive, and None after every ``every`` seconds without one.

    A separate task reads the items, so that their producer can be cancelled at any point.
    Raise RequestRefusedError, and the errors of items.
    """
    queue: asyncio.Queue[Item | Exception] = asyncio.Queue(MAX_BUFFERED_EVENTS)
    reader = asyncio.ensure_future(_read(items, queue))
    try:
        while True:
            coming = asyncio.ensure_future(queue.get())
            try:
                while not await guard.done(coming, every):
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
    """Return one server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False, separators=(',', ':'))}\n\n".encode()


def preview_json(preview: StreamPreview, spec: DataSpec, seed: int, given: GivenRows | None) -> dict[str, Any]:
    """Return a preview of samples of a seed as JSON: base64 PNGs, texts, rows of a table as objects, or nested lists.

    Undecided places are grey in pictures, · in texts, null in rows, and −1 in lists. given are a table's known values.
    """
    facts = {"done": preview.done, "total": preview.total}
    samples = preview.samples.reshape(-1, *spec.shape)
    if drawable(spec):
        return {**facts, "images": encode_pictures(samples, levels=spec.levels)}
    if spec.is_text:
        # index −1 is the last character, here ·
        return {**facts, "texts": sample_lists(samples, spec.model_copy(update={"alphabet": spec.alphabet + "·"}))}
    if spec.is_table:
        return {**facts, "samples": sampled_objects(samples, seed, spec, given)}
    return {**facts, "samples": samples.tolist()}


async def _events(
    first: Item, items: AsyncGenerator[Item | None, None], show: Callable[[Item], bytes], record: AccessRecord
) -> AsyncGenerator[bytes, None]:
    """Yield encoded events; if an error occurs, the last one reports it."""
    try:
        async with aclosing(items):
            last: Item | None = first
            yield await asyncio.to_thread(show, first)
            async for item in items:
                last = item or last
                yield HEARTBEAT if item is None else await asyncio.to_thread(show, item)
        if not isinstance(last, JobResult):
            raise RuntimeError("the stream ended without a result")
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


def cancel(task: "asyncio.Future[Any]") -> None:
    """Cancel a task without waiting for it. Its errors are dropped."""
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
