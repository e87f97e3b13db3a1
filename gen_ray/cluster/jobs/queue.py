"""The queue of a shared cluster: a named actor that grants sweeps and trainings their next start."""

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from gen_ray.cluster.jobs.fair_shares import ResourceRequest, Resources, Shares
from gen_ray.cluster.jobs.reservations import reserved_by_others
from gen_ray.cluster.jobs.waiting import REPORT_SECONDS, missing
from gen_ray.cluster.nodes.connect import available_resources
from gen_ray.errors import UserError

NAME = "gen_ray.queue"
ASK_SECONDS, LIVE_SECONDS, RESERVED_SECONDS = 0.5, 2.0, 1.0
logger = logging.getLogger(__name__)


class Queue:
    """The queue's actor. The death of a driver's logger actor shows that the driver died; its share is then freed."""

    def __init__(self) -> None:
        """Create an empty queue."""
        self.shares, self.trackers = Shares(), dict[str, Any]()
        self.watch: asyncio.Task[None] | None = None
        self.others: Resources = {}
        self.jobs, self.looked_at = set[str](), float("-inf")

    async def ask(self, request: ResourceRequest, tracker: Any) -> bool:
        """Return whether the member may start one more now."""
        self.trackers[request.name] = tracker
        self.watch = self.watch or asyncio.create_task(self._forget_the_dead())
        others = self.reserved(request.job)
        available = {kind: max(0.0, amount - others.get(kind, 0.0)) for kind, amount in available_resources().items()}
        return self.shares.ask(request, available)

    def reserved(self, job: str = "") -> Resources:
        """Return the resources that jobs outside the queue have reserved; looked up at most once a second."""
        if time.monotonic() - self.looked_at > RESERVED_SECONDS or job not in self.jobs:
            self.jobs = {job, *(member.request.job for member in self.shares.members.values())}
            self.others, self.looked_at = reserved_by_others(self.jobs), time.monotonic()
        return self.others

    async def tell(self, name: str, running: int) -> None:
        """Set the number of a member's running trials."""
        self.shares.tell(name, running)

    async def leave(self, name: str) -> None:
        """Remove a member."""
        self.shares.leave(name)
        self.trackers.pop(name, None)

    async def members(self) -> list[tuple[ResourceRequest, str, float]]:
        """Return each member's request with its running trials, the reason of its wait, and seconds since it joined."""
        now = time.monotonic()
        return [
            (replace(member.request, running=member.running), self.shares.waits_for(member), now - member.since)
            for member in self.shares.members.values()
        ]

    async def _forget_the_dead(self) -> None:
        while True:
            await asyncio.sleep(LIVE_SECONDS)
            for name, tracker in list(self.trackers.items()):
                try:
                    await tracker.__ray_ready__.remote()
                except ActorUnavailableError:
                    continue  # its node does not answer at the moment
                except ActorDiedError:
                    await self.leave(name)


class QueueSlot(Protocol):
    """A member's slot in the queue."""

    shared: bool
    """Whether a trial's resources return to the queue when the trial ends."""
    left: bool
    """Whether the member has left the queue."""

    def granted(self, running: int) -> bool:
        """Return whether one more may start now, in addition to running."""

    def tell(self, running: int) -> None:
        """Report the number of running trials."""


class NoQueue:
    """The slot of a run on a cluster that is not shared: every start is granted."""

    shared = left = False

    def granted(self, running: int) -> bool:
        """Return True."""
        return True

    def tell(self, running: int) -> None:
        """Do nothing."""


class ClusterQueueSlot:
    """A slot in the cluster's queue."""

    shared = True
    left = False

    def __init__(self, request: ResourceRequest, tracker: Any) -> None:
        """Connect to the queue; tracker is the logger actor whose death removes the member."""
        self.request, self.tracker, self.asked_at, self.reported_at = request, tracker, 0.0, 0.0
        self.queue = _queue()

    def granted(self, running: int) -> bool:
        """Return whether one more may start now; the queue is asked at most every half second."""
        if time.monotonic() - self.asked_at < ASK_SECONDS:
            return False
        self.asked_at = time.monotonic()
        granted = bool(ray.get(self.queue.ask.remote(replace(self.request, running=running), self.tracker)))
        if not granted and not running and self.asked_at - self.reported_at > REPORT_SECONDS:
            room = missing(self.request.needs) or "its turn"
            logger.warning("%s: waits for %s; gen-ray queue shows what runs and waits", self.request.name, room)
            self.reported_at = self.asked_at
        return granted

    def tell(self, running: int) -> None:
        """Report the number of running trials."""
        self.asked_at = 0.0
        ray.get(
            self.queue.tell.remote(self.request.name, running)
        )  # synchronous: a late report would undo the next grant


class WholeSweepSlot:
    """A slot for all trials of a sweep together: the first one acquires it and the last one to end releases it."""

    shared = left = False

    def __init__(self, slot: QueueSlot) -> None:
        """Wrap the slot that is acquired for all trials."""
        self.slot = slot

    def granted(self, running: int) -> bool:
        """Return whether one more may start now."""
        return running > 0 or self.slot.granted(0)

    def tell(self, running: int) -> None:
        """Report the number of running trials."""
        self.slot.tell(min(1, running))


@contextmanager
def queue_slot(
    name: str, priority: float, needs: Mapping[str, float], tracker: Any, most: int = 1, *, together: bool = False
) -> Iterator[QueueSlot]:
    """Yield a slot in the queue of the cluster that RAY_ADDRESS names, or NoQueue without RAY_ADDRESS.

    With together, the slot covers most concurrent trials, each with its needs, or none.
    """
    if "RAY_ADDRESS" not in os.environ:
        yield NoQueue()
        return
    slots = most if together else 1
    amounts = {kind: slots * amount for kind, amount in needs.items()}
    job = ray.get_runtime_context().get_job_id()
    request = ResourceRequest(name=name, priority=priority, needs=amounts, running=0, job=job, most=most // slots)
    slot = ClusterQueueSlot(request, tracker)
    try:
        yield WholeSweepSlot(slot) if together else slot
    finally:
        slot.left = True
        slot.queue.leave.remote(name)


def wait(slot: QueueSlot) -> None:
    """Block until the slot is granted or the member has left the queue."""
    while not slot.left and not slot.granted(0):
        time.sleep(ASK_SECONDS)


def members() -> list[tuple[ResourceRequest, str, float]]:
    """Return the members of the queue of the cluster that RAY_ADDRESS names. Raise UserError if it is not set."""
    if "RAY_ADDRESS" not in os.environ:
        raise UserError("RAY_ADDRESS: is not set; only a shared cluster has a queue: set it to its head's HOST:PORT")
    states: list[tuple[ResourceRequest, str, float]] = ray.get(_queue().members.remote())
    return states


def reserved() -> Resources:
    """Return the resources that jobs outside the queue have reserved on the cluster that RAY_ADDRESS names."""
    resources: Resources = ray.get(_queue().reserved.remote())
    return resources


def _queue() -> Any:
    """Return the cluster's queue, creating it if needed. If its node is lost, it restarts on another node."""
    name = {"name": NAME, "namespace": NAME, "get_if_exists": True, "lifetime": "detached"}
    return ray.remote(Queue).options(**name, num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
