"""Messages on their way to MLflow. A store that is away for a while delays them; none is lost, nobody waits."""

import base64
import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np

from gen_ray.errors import RunError
from gen_ray.store import Store
from gen_ray.tracking import REFUSED, TrackedRun, is_gone, this_process

RETRY_SECONDS = 1.0
logger = logging.getLogger(__name__)

Message = tuple[str, str, dict[str, Any]]
"""A run's id, a verb of TrackedRun (or "open", its constructor) and the verb's arguments."""


class Outbox:
    """Delivers messages in order, by a thread of its own. What a store refuses for good is dropped with a warning.

    While a store is away they are also in a file of folder, which the next outbox of that folder sends if this one's
    process ends before it could.
    """

    def __init__(self, store: Store, folder: Path, deliver: Callable[..., Any] = TrackedRun) -> None:
        """Take over what processes that are gone have left in folder, and begin."""
        self.store, self.deliver = store, deliver
        self.file = folder / f"{os.getpid()}-{time.time_ns()}.jsonl"
        self.waiting, self.counts = deque[Message](), Counter[str]()
        self.runs: dict[str, TrackedRun] = {}
        self.trouble, self.changed = "", Condition()
        for message in _left(folder, store):
            self.put(message[0], message[1], **message[2])
        Thread(target=self._work, daemon=True).start()

    def put(self, run_id: str, verb: str, **args: Any) -> None:
        """Send a message; it may take as long as it likes."""
        with self.changed:
            self.waiting.append((run_id, verb, args))
            self.counts[run_id] += 1
            self.changed.notify_all()

    def pending(self, run_id: str) -> tuple[int, str]:
        """Return how many messages of a run are on their way, and what the store says against them."""
        with self.changed:
            return self.counts[run_id], self.trouble

    def discard(self) -> None:
        """Forget what has not been sent."""
        with self.changed:
            self.waiting.clear()
            self.counts.clear()
            self.file.unlink(missing_ok=True)

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting)
                message = self.waiting[0]
            try:
                self._send(*message)
            except RunError as error:
                if error.reason != REFUSED:
                    self._keep()
                    self.trouble = str(error)  # from now on somebody may discard what was kept
                    time.sleep(RETRY_SECONDS)
                    continue
                logger.warning("%s: %s", message[0], error)
            self._sent(message)

    def _send(self, run_id: str, verb: str, args: Mapping[str, Any]) -> None:
        if verb == "open":
            self.runs[run_id] = self.deliver(self.store, run_id, **args)
        elif run_id in self.runs:
            getattr(self.runs[run_id], verb)(**args)

    def _sent(self, message: Message) -> None:
        with self.changed:
            if self.waiting and self.waiting[0] is message:  # else discarded meanwhile
                self.waiting.popleft()
                self.counts[message[0]] -= 1
            if self.trouble:
                self.trouble = ""
                self.file.unlink(missing_ok=True)

    def _keep(self) -> None:
        """Write down what is waiting, with how to open the runs it is of."""
        with self.changed:
            messages = list(self.waiting)
        opened = {run_id for run_id, verb, _ in messages if verb == "open"}
        for run_id in {run_id for run_id, _, _ in messages} - opened:
            messages.insert(0, (run_id, "open", {"name": run_id, "params": {}, "tags": {}}))
        with suppress(OSError):  # a full disk: they are still here, and sent as soon as the store is back
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part = self.file.with_suffix(".part")
            lines = [[self.store.uri, self.store.experiment, this_process()], *messages]
            part.write_text("\n".join(json.dumps(line, default=_plain) for line in lines))
            os.replace(part, self.file)


def _left(folder: Path, store: Store) -> list[Message]:
    """Return the messages to a store that processes that are gone have left, and take their files away."""
    found: list[Message] = []
    for file in sorted(folder.glob("*.jsonl")):
        (*where, process), *messages = (json.loads(line, object_hook=_made) for line in file.read_text().splitlines())
        if where == [store.uri, store.experiment] and is_gone(process):
            closed = {run_id for run_id, verb, _ in messages if verb == "close"}
            cut_off = {run_id for run_id, _, _ in messages} - closed
            found += [*map(tuple, messages), *((run_id, "close", {"status": "KILLED"}) for run_id in cut_off)]
            file.unlink()
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"shape": value.shape, "bytes": base64.b64encode(value.tobytes()).decode()}
    return str(value)


def _made(value: dict[str, Any]) -> Any:
    if value.keys() == {"shape", "bytes"}:
        return np.frombuffer(base64.b64decode(value["bytes"]), np.uint8).reshape(value["shape"])
    return value
