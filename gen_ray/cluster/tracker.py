"""One process of a run that writes to MLflow; everyone else sends it a message and goes on working."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.util.placement_group import PlacementGroup

from gen_ray.store import Store

if TYPE_CHECKING:
    from gen_ray.tracking import TrackedRun

ASIDE = "aside"
"""Calls that are answered even while the others wait for MLflow."""


class Tracker:
    """Keeps one tracked run and remembers how far it is."""

    run: "TrackedRun"

    def __init__(self) -> None:
        """Begin with nothing done."""
        self.done, self.total = 0, 0
        self.newest: dict[str, float] = {}
        self.told: dict[str, str] = {}
        self.room: PlacementGroup | None = None
        self.stopped = False

    def open(self, store: Store, run_id: str, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the run."""
        from gen_ray.tracking import TrackedRun  # here, since a driver has no need of MLflow

        self.run = TrackedRun(store, run_id, name=name, params=params, tags=tags)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics."""
        self.newest = {**self.newest, **metrics}
        self.run.log(metrics, step)

    def show(self, name: str, picture: np.ndarray, step: int) -> None:
        """Record a picture."""
        self.run.show(name, picture, step)

    def show_text(self, name: str, text: str, step: int) -> None:
        """Record a text."""
        self.run.show_text(name, text, step)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self.run.tag(tags)

    def keep(self, path: str, under: str) -> None:
        """Store a file or folder."""
        self.run.keep(Path(path), under)

    def progress(self, done: int, total: int) -> None:
        """Note how far the training is."""
        self.done, self.total = done, total

    def look(self) -> tuple[int, int, dict[str, float]]:
        """Return steps done, steps in all and the newest value of every metric."""
        return self.done, self.total, dict(self.newest)

    def condemn(self, **fault: str) -> None:
        """Note a fault of one rank that trying again would not mend; the first one is the one that counts."""
        self.told = self.told or fault

    def fault(self) -> dict[str, str]:
        """Return the fault noted, as message, reason and trace; empty where there is none."""
        return self.told

    def occupy(self, room: PlacementGroup) -> None:
        """Note what the workers' resources are booked in."""
        self.room = room

    @ray.method(concurrency_group=ASIDE)
    def stop(self) -> None:
        """Have the training stop."""
        self.stopped = True

    @ray.method(concurrency_group=ASIDE)
    def stopping(self) -> bool:
        """Return whether the training is to stop."""
        return self.stopped

    def vacate(self) -> None:
        """Free the resources of workers whose controller died: Ray itself needs its dashboard to notice."""
        if self.room is not None:
            ray.util.remove_placement_group(self.room)
            self.room = None

    def flush(self) -> str:
        """Return the MLflow run id: once it is there, what the caller sent before has been written."""
        return self.run.id

    def close(self, status: str) -> None:
        """End the run."""
        self.run.close(status)


def start(store: Store, run_id: str, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Any:
    """Start the tracker's process on the driver's node, where the default store and the artifacts are.

    Raise RunError where the run cannot be opened: what could not be recorded is not begun.
    """
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    remote = ray.remote(num_cpus=0, concurrency_groups={ASIDE: 1})(Tracker)
    actor = remote.options(scheduling_strategy=here).remote()
    try:
        ray.get(actor.open.remote(store, run_id, name=name, params=params, tags=tags))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return actor
