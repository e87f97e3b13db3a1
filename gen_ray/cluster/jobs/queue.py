"""The queue of a shared cluster: a named actor that all sweeps and trainings on it ask before they begin something."""

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

from gen_ray.cluster.jobs.fair_shares import Resources, Shares, Wish
from gen_ray.cluster.jobs.reservations import reserved_by_others
from gen_ray.cluster.jobs.waiting import REPORT_SECONDS, missing
from gen_ray.cluster.nodes.connect import in_reach
from gen_ray.errors import UserError

NAME = "gen_ray.queue"
ASK_SECONDS, LIVE_SECONDS, RESERVED_SECONDS = 0.5, 2.0, 1.0
logger = logging.getLogger(__name__)


class Queue:
    """The actor. It knows of a driver's death by that of the driver's tracker, and frees what it had."""

    def __init__(self) -> None:
        """Start without members."""
        self.shares, self.trackers = Shares(), dict[str, Any]()
        self.watch: asyncio.Task[None] | None = None
        self.others: Resources = {}
        self.jobs, self.looked_at = set[str](), float("-inf")

    async def ask(self, wish: Wish, tracker: Any) -> bool:
        """Return whether the member may begin one more now."""
        self.trackers[wish.name] = tracker
        self.watch = self.watch or asyncio.create_task(self._forget_the_dead())
        others = self.reserved(wish.job)
        room = {kind: max(0.0, amount - others.get(kind, 0.0)) for kind, amount in in_reach().items()}
        return self.shares.ask(wish, room)

    def reserved(self, job: str = "") -> Resources:
        """Return what jobs have reserved that are not members; it is looked up once a second at most."""
        if time.monotonic() - self.looked_at > RESERVED_SECONDS or job not in self.jobs:
            self.jobs = {job, *(member.wish.job for member in self.shares.members.values())}
            self.others, self.looked_at = reserved_by_others(self.jobs), time.monotonic()
        return self.others

    async def tell(self, name: str, running: int) -> None:
        """Note how many a member has running."""
        self.shares.tell(name, running)

    async def leave(self, name: str) -> None:
        """Forget a member."""
        self.shares.leave(name)
        self.trackers.pop(name, None)

    async def members(self) -> list[tuple[Wish, str, float]]:
        """Return each member with its running trials, its wait in words, and the seconds since it came."""
        now = time.monotonic()
        return [
            (replace(member.wish, running=member.running), self.shares.waits_for(member), now - member.since)
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
    """A member's place in the queue."""

    shared: bool
    """Whether what a trial had goes back to the queue when it ends."""
    left: bool
    """Whether the place was given up."""

    def granted(self, running: int) -> bool:
        """Return whether one more may start now, beside those of the member that run."""

    def tell(self, running: int) -> None:
        """Say how many are running."""


class NoQueue:
    """The place of one who shares its cluster with nobody."""

    shared = left = False

    def granted(self, running: int) -> bool:
        """Return that it may."""
        return True

    def tell(self, running: int) -> None:
        """Do nothing."""


class Shared:
    """A place in the cluster's queue."""

    shared = True
    left = False

    def __init__(self, wish: Wish, tracker: Any) -> None:
        """Begin with nothing asked."""
        self.wish, self.tracker, self.asked_at, self.reported_at = wish, tracker, 0.0, 0.0
        self.queue = _queue()

    def granted(self, running: int) -> bool:
        """Return whether one more may start now; asked every half second at most."""
        if time.monotonic() - self.asked_at < ASK_SECONDS:
            return False
        self.asked_at = time.monotonic()
        granted = bool(ray.get(self.queue.ask.remote(replace(self.wish, running=running), self.tracker)))
        if not granted and not running and self.asked_at - self.reported_at > REPORT_SECONDS:
            room = missing(self.wish.needs) or "its turn"
            logger.warning("%s: waits for %s; gen-ray queue shows what runs and waits", self.wish.name, room)
            self.reported_at = self.asked_at
        return granted

    def tell(self, running: int) -> None:
        """Say how many are running."""
        self.asked_at = 0.0
        ray.get(self.queue.tell.remote(self.wish.name, running))  # told late, it would undo what is granted next


class Together:
    """A place for all of a sweep's trials: whoever is the first of them has it for all until the last has ended."""

    shared = left = False

    def __init__(self, place: QueueSlot) -> None:
        """Begin without it."""
        self.place = place

    def granted(self, running: int) -> bool:
        """Return whether one more may begin now."""
        return running > 0 or self.place.granted(0)

    def tell(self, running: int) -> None:
        """Say how many are running."""
        self.place.tell(min(1, running))


@contextmanager
def turn(
    name: str, priority: float, needs: Mapping[str, float], tracker: Any, most: int = 1, *, together: bool = False
) -> Iterator[QueueSlot]:
    """Have a place in the queue while the block lasts, where RAY_ADDRESS names a cluster: one's own is not shared.

    Together, there is room for most trials at once, each with its needs, or for none.
    """
    if "RAY_ADDRESS" not in os.environ:
        yield NoQueue()
        return
    places = most if together else 1
    amounts = {kind: places * amount for kind, amount in needs.items()}
    job = ray.get_runtime_context().get_job_id()
    wish = Wish(name=name, priority=priority, needs=amounts, running=0, job=job, most=most // places)
    place = Shared(wish, tracker)
    try:
        yield Together(place) if together else place
    finally:
        place.left = True
        place.queue.leave.remote(name)


def wait(place: QueueSlot) -> None:
    """Return when the place is granted, or was given up."""
    while not place.left and not place.granted(0):
        time.sleep(ASK_SECONDS)


def members() -> list[tuple[Wish, str, float]]:
    """Return who is in the queue of the cluster that RAY_ADDRESS names. Raise UserError where it names none."""
    if "RAY_ADDRESS" not in os.environ:
        raise UserError("RAY_ADDRESS: is not set; a Ray that a run starts for itself has no queue")
    found: list[tuple[Wish, str, float]] = ray.get(_queue().members.remote())
    return found


def reserved() -> Resources:
    """Return what others than the queue's members have reserved on the cluster that RAY_ADDRESS names."""
    found: Resources = ray.get(_queue().reserved.remote())
    return found


def _queue() -> Any:
    """Return the cluster's queue, begun by whoever asks first. Lost with its node it starts again on another."""
    name = {"name": NAME, "namespace": NAME, "get_if_exists": True, "lifetime": "detached"}
    return ray.remote(Queue).options(**name, num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
