"""One process that writes to MLflow for all runs of a driver; everyone else sends it a message and goes on working."""

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
from gen_ray.storage.paths import beside
from gen_ray.tracking.store import Store

if TYPE_CHECKING:
    from gen_ray.tracking.outbox import Outbox

OUTBOX = "outbox"
DRAIN_SECONDS = 60.0
"""How long the end of a run waits for a store that is away."""
OPEN_SECONDS = 180.0
"""How long the start of a run waits for a store that accepts connections and does not answer."""
LOOK_SECONDS = 0.05


@dataclass
class ProgressReport:
    """How far a run is, and what its processes have to know of one another."""

    done: int = 0
    total: int = 0
    newest: dict[str, float] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    room: PlacementGroup | None = None
    stopped: bool = False


class Nowhere:
    """Stands for an outbox where nothing is to be recorded."""

    def put(self, run_id: str, verb: str, **args: Any) -> None:
        """Drop a message."""

    def pending(self, run_id: str) -> tuple[int, str]:
        """Return that nothing is on its way."""
        return 0, ""

    def refusal(self, run_id: str) -> str:
        """Return that nothing was refused."""
        return ""

    def discard(self) -> None:
        """Do nothing."""


class LoggerActor:
    """The process. No method waits for MLflow, so that all are answered at once."""

    outbox: "Outbox | Nowhere"

    def __init__(self, store: Store | None, folder: Path) -> None:
        """Begin with no run; messages that have to wait for the store are kept in folder."""
        self.runs: dict[str, ProgressReport] = defaultdict(ProgressReport)
        if store is None:
            self.outbox = Nowhere()
            return
        from gen_ray.tracking.outbox import (
            Outbox,  # here, since a driver has no need of MLflow, which takes over a second
        )

        self.outbox = Outbox(store, folder)

    def send(self, run_id: str, verb: str, args: dict[str, Any]) -> None:
        """Have a verb of TrackedRun done."""
        self.outbox.put(run_id, verb, **args)

    def log(self, run_id: str, metrics: Mapping[str, float], step: int, at: int) -> None:
        """Record metrics."""
        self.runs[run_id].newest.update(metrics)
        self.outbox.put(run_id, "log", metrics=dict(metrics), step=step, at=at)

    def pending(self, run_id: str) -> tuple[int, str]:
        """Return how many messages of a run are on their way, and what the store says against them."""
        return self.outbox.pending(run_id)

    def refusal(self, run_id: str) -> str:
        """Return why MLflow refused to open a run; empty where it did not."""
        return self.outbox.refusal(run_id)

    def discard(self) -> None:
        """Forget what has not been sent."""
        self.outbox.discard()

    def progress(self, run_id: str, done: int, total: int) -> None:
        """Note how far the training is."""
        self.runs[run_id].done, self.runs[run_id].total = done, total

    def look(self, run_id: str) -> tuple[int, int, dict[str, float]]:
        """Return steps done, steps in all and the newest value of every metric."""
        run = self.runs[run_id]
        return run.done, run.total, dict(run.newest)

    def condemn(self, run_id: str, fault: dict[str, str]) -> None:
        """Note a fault of one rank that trying again would not mend; the first one is the one that counts."""
        self.runs[run_id].told = self.runs[run_id].told or fault

    def fault(self, run_id: str) -> dict[str, str]:
        """Return the fault noted, as message, reason and trace; empty where there is none."""
        return self.runs[run_id].told

    def occupy(self, run_id: str, room: PlacementGroup) -> None:
        """Note what the workers' resources are booked in."""
        self.runs[run_id].room = room

    def vacate(self, run_id: str) -> None:
        """Free the resources of workers whose controller died: Ray itself needs its dashboard to notice."""
        room, self.runs[run_id].room = self.runs[run_id].room, None
        if room is not None:
            ray.util.remove_placement_group(room)

    def has_started(self, run_id: str) -> bool:
        """Return whether the workers have their resources."""
        return self.runs[run_id].room is not None

    def stop(self, run_id: str) -> None:
        """Have the training stop."""
        self.runs[run_id].stopped = True

    def stopping(self, run_id: str) -> bool:
        """Return whether the training is to stop."""
        return self.runs[run_id].stopped


@dataclass(frozen=True)
class RunLogger:
    """One run as its driver and its workers see it: what is said is on its way at once, what is asked is answered."""

    tracker: Any
    run_id: str

    def open(self, **how: Any) -> None:
        """Open the run in MLflow, with TrackedRun's name, params, tags and parent."""
        self._send("open", **how)

    def drained(self, seconds: float) -> str:
        """Wait so long for MLflow to have all that was said; return what it says against that, empty where it has."""
        return self._drained(seconds, patient=True)

    def opened(self) -> None:
        """Return when the run is open. Raise RunError where it cannot be: a run that MLflow refuses is not trained."""
        trouble = self._drained(OPEN_SECONDS, patient=False) or self.refusal()
        if trouble:
            ray.get(self.tracker.discard.remote())
            raise RunError(trouble, reason="tracking")

    def refusal(self) -> str:
        """Return why MLflow refused to open the run; empty where it did not, or has not answered yet."""
        return str(ray.get(self.tracker.refusal.remote(self.run_id)))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at a step."""
        self.tracker.log.remote(self.run_id, dict(metrics), step, int(time.time() * 1000))

    def show(self, name: str, picture: np.ndarray, step: int) -> None:
        """Record a picture."""
        self._send("show", name=name, picture=picture, step=step)

    def show_text(self, name: str, text: str, step: int) -> None:
        """Record a text."""
        self._send("show_text", name=name, text=text, step=step)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._send("tag", tags=dict(tags))

    def keep(self, path: Path, under: str) -> None:
        """Store a file or folder."""
        self._send("keep", path=str(path), under=under)

    def end(self, status: str) -> None:
        """End the run."""
        self._send("close", status=status)

    def close(self, status: str, seconds: float = DRAIN_SECONDS) -> str:
        """End the run and return why MLflow has not heard of it yet; empty where it has."""
        self.end(status)
        return self.drained(seconds) or self.refusal()

    def progress(self, done: int, total: int) -> None:
        """Tell how far the training is."""
        self.tracker.progress.remote(self.run_id, done, total)

    def look(self) -> tuple[int, int, dict[str, float]]:
        """Return steps done, steps in all and the newest value of every metric."""
        seen: tuple[int, int, dict[str, float]] = ray.get(self.tracker.look.remote(self.run_id))
        return seen

    def condemn(self, **fault: str) -> None:
        """Note a fault that trying again would not mend; return when that is done."""
        ray.get(self.tracker.condemn.remote(self.run_id, fault))

    def fault(self) -> dict[str, str]:
        """Return the fault noted."""
        told: dict[str, str] = ray.get(self.tracker.fault.remote(self.run_id))
        return told

    def occupy(self, room: PlacementGroup | None) -> None:
        """Note what the workers' resources are booked in."""
        self.tracker.occupy.remote(self.run_id, room)

    def has_started(self) -> bool:
        """Return whether the workers have their resources."""
        return bool(ray.get(self.tracker.has_started.remote(self.run_id)))

    def vacate(self) -> None:
        """Free the resources of the workers; return when that is done."""
        ray.get(self.tracker.vacate.remote(self.run_id))

    def stop(self) -> None:
        """Have the training stop."""
        ray.get(self.tracker.stop.remote(self.run_id))

    def stopping(self) -> "ray.ObjectRef[bool]":
        """Ask whether the training is to stop."""
        ref: ray.ObjectRef[bool] = self.tracker.stopping.remote(self.run_id)
        return ref

    def flush(self) -> None:
        """Return when what was said has arrived at the tracker: what a worker says last must not be lost with it."""
        ray.get(self.tracker.pending.remote(self.run_id))

    def _send(self, verb: str, **args: Any) -> None:
        self.tracker.send.remote(self.run_id, verb, args)

    def _drained(self, seconds: float, *, patient: bool) -> str:
        """Return what the store says against the run's messages, empty once all have arrived there."""
        until = time.monotonic() + seconds
        while True:
            left, trouble = ray.get(self.tracker.pending.remote(self.run_id))
            if not left or (trouble and not patient):
                return str(trouble) if left else ""
            if time.monotonic() > until:
                return trouble or "it is slow to answer"
            time.sleep(LOOK_SECONDS)


def start(store: Store | None, root: Path) -> Any:
    """Start the tracker's process on the driver's node, where the default store and the artifacts are."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(LoggerActor).options(num_cpus=0, scheduling_strategy=here).remote(store, beside(root) / OUTBOX)
