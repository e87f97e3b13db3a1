"""The actor that writes to MLflow for all runs of a driver; other processes send it messages without waiting."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.util.placement_group import PlacementGroup

from gen_ray.errors import RunError
from gen_ray.storage.paths import local_dir
from gen_ray.tracking.store import Store

if TYPE_CHECKING:
    from gen_ray.tracking.outbox import Outbox

OUTBOX = "outbox"
DRAIN_SECONDS = 60.0
"""Time that the end of a run waits for an unavailable store."""
OPEN_SECONDS = 180.0
"""Time that the start of a run waits for a store that accepts connections but does not answer."""
POLL_SECONDS = 0.05


@dataclass
class ProgressReport:
    """A run's progress, and the state that its processes share."""

    done: int = 0
    total: int = 0
    newest: dict[str, float] = field(default_factory=dict)
    fatal: dict[str, str] = field(default_factory=dict)
    group: PlacementGroup | None = None
    stopped: bool = False


class NullOutbox:
    """An outbox that records nothing."""

    def put(self, run_id: str, verb: str, **args: Any) -> None:
        """Drop a message."""

    def pending(self, run_id: str) -> tuple[int, str]:
        """Return that no message is pending."""
        return 0, ""

    def refusal(self, run_id: str) -> str:
        """Return that MLflow refused nothing."""
        return ""

    def discard(self) -> None:
        """Do nothing."""


class LoggerActor:
    """The logger actor. No method waits for MLflow, so that every call is answered at once."""

    outbox: "Outbox | NullOutbox"

    def __init__(self, store: Store | None, folder: Path) -> None:
        """Create an actor without runs; folder keeps messages that wait for the store. Without a store, drop them."""
        self.runs: dict[str, ProgressReport] = defaultdict(ProgressReport)
        if store is None:
            self.outbox = NullOutbox()
            return
        from gen_ray.tracking.outbox import (
            Outbox,  # imported here because drivers do not need MLflow, whose import takes over a second
        )

        self.outbox = Outbox(store, folder)

    def send(self, run_id: str, verb: str, args: dict[str, Any]) -> None:
        """Queue a call of the TrackedRun method verb."""
        self.outbox.put(run_id, verb, **args)

    def log(self, run_id: str, metrics: Mapping[str, float], step: int, at: int) -> None:
        """Record metrics."""
        self.runs[run_id].newest.update(metrics)
        self.outbox.put(run_id, "log", metrics=dict(metrics), step=step, at=at)

    def pending(self, run_id: str) -> tuple[int, str]:
        """Return the number of a run's pending messages, and the store's last error or ""."""
        return self.outbox.pending(run_id)

    def refusal(self, run_id: str) -> str:
        """Return why MLflow refused to open a run, or ""."""
        return self.outbox.refusal(run_id)

    def discard(self) -> None:
        """Drop all pending messages."""
        self.outbox.discard()

    def progress(self, run_id: str, done: int, total: int) -> None:
        """Set a run's progress in steps."""
        self.runs[run_id].done, self.runs[run_id].total = done, total

    def latest(self, run_id: str) -> tuple[int, int, dict[str, float]]:
        """Return steps done, total steps and the newest value of every metric."""
        run = self.runs[run_id]
        return run.done, run.total, dict(run.newest)

    def report_fatal(self, run_id: str, fault: dict[str, str]) -> None:
        """Store one rank's fatal error, which a retry would not fix; the first one is kept."""
        self.runs[run_id].fatal = self.runs[run_id].fatal or fault

    def fault(self, run_id: str) -> dict[str, str]:
        """Return the fatal error as message, reason and trace; empty if there is none."""
        return self.runs[run_id].fatal

    def hold_placement_group(self, run_id: str, group: PlacementGroup) -> None:
        """Store the placement group that holds the workers' resources."""
        self.runs[run_id].group = group

    def release_placement_group(self, run_id: str) -> None:
        """Release the placement group of workers whose controller died; Ray itself needs a dashboard for that."""
        group, self.runs[run_id].group = self.runs[run_id].group, None
        if group is not None:
            ray.util.remove_placement_group(group)

    def has_started(self, run_id: str) -> bool:
        """Return whether the workers have their resources."""
        return self.runs[run_id].group is not None

    def stop(self, run_id: str) -> None:
        """Request the training to stop."""
        self.runs[run_id].stopped = True

    def stopping(self, run_id: str) -> bool:
        """Return whether the training is to stop."""
        return self.runs[run_id].stopped


@dataclass(frozen=True)
class RunLogger:
    """A run's handle on the logger actor, for its driver and workers: messages do not wait, queries are answered."""

    tracker: Any
    run_id: str

    def open(self, **how: Any) -> None:
        """Open the run in MLflow, with TrackedRun's name, params, tags and parent."""
        self._send("open", **how)

    def drained(self, seconds: float) -> str:
        """Wait up to seconds until MLflow has all messages; return "" then, or else the store's error."""
        return self._drained(seconds, patient=True)

    def opened(self) -> None:
        """Block until the run is open. Raise RunError if MLflow refuses it: such a run must not train."""
        trouble = self._drained(OPEN_SECONDS, patient=False) or self.refusal()
        if trouble:
            ray.get(self.tracker.discard.remote())
            raise RunError(trouble, reason="tracking")

    def refusal(self) -> str:
        """Return why MLflow refused to open the run, or "" if it did not or has not answered yet."""
        return str(ray.get(self.tracker.refusal.remote(self.run_id)))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at a step."""
        self.tracker.log.remote(self.run_id, dict(metrics), step, int(time.time() * 1000))

    def log_image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Record a picture (H, W, 3)."""
        self._send("log_image", name=name, picture=picture, step=step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Record a text."""
        self._send("log_text", name=name, text=text, step=step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._send("set_tags", tags=dict(tags))

    def log_artifact(self, path: Path, under: str) -> None:
        """Store a file or folder."""
        self._send("log_artifact", path=str(path), under=under)

    def end(self, status: str) -> None:
        """End the run."""
        self._send("close", status=status)

    def close(self, status: str, seconds: float = DRAIN_SECONDS) -> str:
        """End the run; return why MLflow does not have all messages yet, or ""."""
        self.end(status)
        return self.drained(seconds) or self.refusal()

    def progress(self, done: int, total: int) -> None:
        """Report the training's progress in steps."""
        self.tracker.progress.remote(self.run_id, done, total)

    def latest(self) -> tuple[int, int, dict[str, float]]:
        """Return steps done, total steps and the newest value of every metric."""
        latest: tuple[int, int, dict[str, float]] = ray.get(self.tracker.latest.remote(self.run_id))
        return latest

    def report_fatal(self, **fault: str) -> None:
        """Store a fatal error, which a retry would not fix; wait until it is stored."""
        ray.get(self.tracker.report_fatal.remote(self.run_id, fault))

    def fault(self) -> dict[str, str]:
        """Return the fatal error, empty if there is none."""
        fault: dict[str, str] = ray.get(self.tracker.fault.remote(self.run_id))
        return fault

    def hold_placement_group(self, group: PlacementGroup | None) -> None:
        """Store the placement group that holds the workers' resources."""
        self.tracker.hold_placement_group.remote(self.run_id, group)

    def has_started(self) -> bool:
        """Return whether the workers have their resources."""
        return bool(ray.get(self.tracker.has_started.remote(self.run_id)))

    def release_placement_group(self) -> None:
        """Release the workers' placement group; wait until that is done."""
        ray.get(self.tracker.release_placement_group.remote(self.run_id))

    def stop(self) -> None:
        """Request the training to stop."""
        ray.get(self.tracker.stop.remote(self.run_id))

    def stopping(self) -> "ray.ObjectRef[bool]":
        """Return a reference to the answer whether the training is to stop."""
        ref: ray.ObjectRef[bool] = self.tracker.stopping.remote(self.run_id)
        return ref

    def flush(self) -> None:
        """Wait until the actor has received all messages, so that a worker's last ones are not lost when it ends."""
        ray.get(self.tracker.pending.remote(self.run_id))

    def _send(self, verb: str, **args: Any) -> None:
        self.tracker.send.remote(self.run_id, verb, args)

    def _drained(self, seconds: float, *, patient: bool) -> str:
        """Return "" once the store has all of the run's messages, else its error; if patient, wait despite errors."""
        until = time.monotonic() + seconds
        while True:
            pending, trouble = ray.get(self.tracker.pending.remote(self.run_id))
            if not pending or (trouble and not patient):
                return str(trouble) if pending else ""
            if time.monotonic() > until:
                return trouble or "MLflow is slow to answer"
            time.sleep(POLL_SECONDS)


def start(store: Store | None, root: Path) -> Any:
    """Start the logger actor on the driver's node, where the default store and the artifacts are."""
    node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(LoggerActor).options(num_cpus=0, scheduling_strategy=node).remote(store, local_dir(root) / OUTBOX)
