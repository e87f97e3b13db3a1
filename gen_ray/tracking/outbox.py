"""The outbox of messages to MLflow. While the store is unavailable messages are kept, and senders do not wait."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from gen_ray.errors import RunError
from gen_ray.tracking import spool
from gen_ray.tracking.runs import REFUSED, TrackedRun
from gen_ray.tracking.spool import Message
from gen_ray.tracking.store import Store

RETRY_SECONDS = 1.0
OPEN, LOG, POINTS = "open", "log", 1000
"""POINTS is MLflow's limit of metrics in a request. A server needs 25 ms for a request, hardly more for a large one."""
VERBS = {OPEN, LOG, "set_tags", "log_image", "log_text", "log_artifact", "close"}
logger = logging.getLogger(__name__)


class Outbox:
    """A queue of messages that a thread delivers in order. A refused message is dropped with a warning.

    While the store is unavailable the messages are also in a file in folder. If this process ends before it could send
    them, the next outbox of the folder does so.
    """

    def __init__(self, store: Store, folder: Path, deliver: Callable[..., Any] = TrackedRun) -> None:
        """Take over the files in folder of processes that have ended, and start the thread.

        deliver opens the run of a message and returns an object with the methods in VERBS.
        """
        self.store, self.deliver = store, deliver
        self.file = spool.new_file(folder)
        self.waiting, self.counts = dict[int, Message](), Counter[str]()
        self.serial = count()
        self.runs: dict[str, TrackedRun] = {}
        self.refusals: dict[str, str] = {}
        self.in_delivery: dict[Path, set[int]] = {}
        """Serial numbers of undelivered messages by the file from which they were taken over."""
        self.trouble, self.unsaved, self.changed = "", False, Condition()
        for file, messages in spool.take_over(folder, store):
            closed = {run_id for run_id, verb, _ in messages if verb == "close"}
            cut_off = dict.fromkeys(run_id for run_id, _, _ in messages if run_id not in closed)
            killed: list[Message] = [(run_id, "close", {"status": "KILLED"}) for run_id in cut_off]
            self.in_delivery[file] = {self._add(message) for message in [*messages, *killed]}
        Thread(target=self._work, daemon=True).start()

    def put(self, run_id: str, verb: str, **args: Any) -> None:
        """Queue a message for delivery, and return at once."""
        with self.changed:
            self._add((run_id, verb, args))
            self.changed.notify_all()

    def _add(self, message: Message) -> int:
        serial = next(self.serial)
        self.waiting[serial] = message
        self.counts[message[0]] += 1
        return serial

    def refusal(self, run_id: str) -> str:
        """Return the reason why MLflow refused to open a run, or an empty text."""
        with self.changed:
            return self.refusals.get(run_id, "")

    def pending(self, run_id: str) -> tuple[int, str]:
        """Return the number of undelivered messages of a run, and the error of the store if it is unavailable."""
        with self.changed:
            return self.counts[run_id], self.trouble

    def discard(self) -> None:
        """Discard the undelivered messages. Files that were taken over stay for the next process."""
        with self.changed:
            self.waiting.clear()
            self.counts.clear()
            self.in_delivery.clear()
            spool.remove(self.file)

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
                    self.trouble = str(error)  # only now, because a caller that sees it may discard the file
                    time.sleep(RETRY_SECONDS)
                    continue
                if len(batch) > 1:
                    most = 1  # one at a time, so that only the refused message is dropped
                    continue
                self._refused(batch, str(error))
            except Exception as error:  # a fault of this message; the thread goes on with the others
                logger.exception("MLflow: a message could not be sent")
                self._refused(batch, f"{type(error).__name__}: {error}")
            self._sent(batch)

    def _refused(self, batch: Mapping[int, Message], why: str) -> None:
        """Log a message that is dropped. If it opens a run, record the refusal and set aside the files with it."""
        run_id, verb, _ = next(iter(batch.values()))
        logger.warning("%s: %s", run_id, why)
        if verb == OPEN:
            with self.changed:
                self.refusals[run_id] = why
                in_delivery = [file for file, serials in self.in_delivery.items() if serials & batch.keys()]
                for file in in_delivery:
                    del self.in_delivery[file]
                    spool.set_aside(file, spool.REFUSED, f"MLflow refuses to open {run_id}")

    def _batch(self, most: int) -> dict[int, Message]:
        """Return the first message. Metrics are joined by the run's following messages, up to ``most`` values."""
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
        if verb not in VERBS:
            raise RunError(f"{verb!r} is not a message to MLflow", reason=REFUSED)
        if verb == OPEN:
            self.refusals.pop(run_id, None)
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
            for file, serials in list(self.in_delivery.items()):
                serials.difference_update(batch)
                if not serials:
                    del self.in_delivery[file]
                    spool.remove(file)
            if self.trouble:
                self.trouble = ""
                spool.remove(self.file)

    def _keep(self) -> None:
        """Save the waiting messages, with messages that open their runs. Those taken over are in files already."""
        with self.changed:
            saved = set().union(*self.in_delivery.values())
            messages = [message for serial, message in self.waiting.items() if serial not in saved]
        opened = {run_id for run_id, verb, _ in messages if verb == OPEN}
        for run_id in {run_id for run_id, _, _ in messages} - opened:
            messages.insert(0, (run_id, OPEN, {"name": run_id, "params": {}, "tags": {}}))
        if messages:
            try:
                spool.save(self.file, self.store, messages)
            except OSError as error:  # the messages are still in memory, and are sent when the store is back
                if not self.unsaved:
                    logger.warning(
                        "%s: cannot be written (%s); messages are lost if this process ends before %s answers",
                        *(self.file, error.strerror, self.store.uri),
                    )
                self.unsaved = True
