"""Messages on their way to MLflow. A store that is away for a while delays them; none is lost, nobody waits."""

import base64
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np

from gen_ray.errors import RunError
from gen_ray.storage import write_whole
from gen_ray.store import Store
from gen_ray.tracking import REFUSED, TrackedRun, is_gone, this_process

RETRY_SECONDS = 1.0
LOG, POINTS = "log", 1000
"""Metrics go together as far as MLflow takes them: a server needs 25 ms for one message, and hardly more for many."""
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
        self.waiting, self.counts = dict[int, Message](), Counter[str]()
        self.serial = count()
        self.runs: dict[str, TrackedRun] = {}
        self.trouble, self.changed = "", Condition()
        for message in _left(folder, store):
            self.put(message[0], message[1], **message[2])
        Thread(target=self._work, daemon=True).start()

    def put(self, run_id: str, verb: str, **args: Any) -> None:
        """Send a message; it may take as long as it likes."""
        with self.changed:
            self.waiting[next(self.serial)] = (run_id, verb, args)
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
        most = POINTS
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting)
                batch = self._batch(most)
            most = POINTS
            try:
                self._send(list(batch.values()))
            except RunError as error:
                if error.reason != REFUSED:
                    self._keep()
                    self.trouble = str(error)  # from now on somebody may discard what was kept
                    time.sleep(RETRY_SECONDS)
                    continue
                if len(batch) > 1:
                    most = 1  # one by one, so that no more is dropped than what is refused
                    continue
                logger.warning("%s: %s", next(iter(batch.values()))[0], error)
            self._sent(batch)

    def _batch(self, most: int) -> dict[int, Message]:
        """Return the first message; if it is of metrics, with the run's that follow it, so many values in all."""
        first, message = next(iter(self.waiting.items()))
        batch, points = {first: message}, 0
        if message[1] != LOG:
            return batch
        of_run = ((serial, found) for serial, found in self.waiting.items() if found[0] == message[0])
        for serial, found in of_run:
            points += max(1, len(found[2].get("metrics", ())))
            if serial != first and (found[1] != LOG or points > most):
                break
            batch[serial] = found
        return batch

    def _send(self, messages: Sequence[Message]) -> None:
        run_id, verb, args = messages[0]
        if verb == "open":
            self.runs[run_id] = self.deliver(self.store, run_id, **args)
        elif run_id in self.runs and verb == LOG:
            self.runs[run_id].log_points([(args["metrics"], args["step"], args["at"]) for _, _, args in messages])
        elif run_id in self.runs:
            getattr(self.runs[run_id], verb)(**args)

    def _sent(self, batch: Mapping[int, Message]) -> None:
        with self.changed:
            for serial, (run_id, _, _) in batch.items():
                if self.waiting.pop(serial, None):  # else discarded meanwhile
                    self.counts[run_id] -= 1
            if self.trouble:
                self.trouble = ""
                self.file.unlink(missing_ok=True)

    def _keep(self) -> None:
        """Write down what is waiting, with how to open the runs it is of."""
        with self.changed:
            messages = list(self.waiting.values())
        opened = {run_id for run_id, verb, _ in messages if verb == "open"}
        for run_id in {run_id for run_id, _, _ in messages} - opened:
            messages.insert(0, (run_id, "open", {"name": run_id, "params": {}, "tags": {}}))
        with suppress(OSError):  # a full disk: they are still here, and sent as soon as the store is back
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lines = [[self.store.uri, self.store.experiment, this_process()], *messages]
            write_whole(self.file, "\n".join(json.dumps(line, default=_plain) for line in lines))


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
