"""A real server of an application on a free loopback port."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def listening(app: Any, **options: Any) -> Iterator[int]:
    """Serve an application in a thread during the block and yield the port; options are those of uvicorn."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, **{"log_level": "critical", **options}))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()
