"""A client at the counter: work is done while it is there and while there is time, and given up otherwise."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from starlette.types import Receive

from gen_ray.serving.errors import http_error

T = TypeVar("T")


class DeadlineGuard:
    """Watches over one request, whose body has been read, from now on for some seconds.

    Work that does not end when it is cancelled is not waited for: the deadline holds whatever the work does.
    """

    def __init__(self, receive: Receive, seconds: float) -> None:
        """Begin to watch."""
        self.until = asyncio.get_running_loop().time() + seconds
        self.gone = asyncio.ensure_future(_left(receive))

    async def __aenter__(self) -> Self:
        """Watch for as long as the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Watch no more."""
        self.end()

    def end(self) -> None:
        """Watch no more."""
        self.gone.cancel()

    async def result(self, work: Coroutine[Any, Any, T], *, grace_seconds: float = 0) -> T:
        """Return what comes of work, also in a grace after the deadline. Raise its error, or RefusedError 499, 504."""
        task = asyncio.ensure_future(work)
        try:
            await self.done(task, grace_seconds=grace_seconds)
            if task.cancelled():
                raise http_error(503, "the work was given up on the server's side")
            return task.result()
        finally:
            cancel(task)

    async def done(
        self, task: "asyncio.Future[Any]", patience: float | None = None, *, grace_seconds: float = 0
    ) -> bool:
        """Return whether a task is done, after some seconds of patience at most. Raise RefusedError 499 or 504."""
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
    """Cancel a task, without waiting for it; what it still raises is of interest to nobody."""
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
