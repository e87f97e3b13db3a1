"""Deadlines and disconnects: work for a request is cancelled when its client is gone or its deadline has passed."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from starlette.types import Receive

from gen_ray.serving.errors import http_error

T = TypeVar("T")


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


def cancel(task: "asyncio.Future[Any]") -> None:
    """Cancel a task without waiting for it. Its errors are dropped."""
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
