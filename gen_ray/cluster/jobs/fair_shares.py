"""Fair shares of a cluster that several sweeps and trainings use at the same time.

Dominant resource fairness (Ghodsi et al. 2011), weighted by priority: the next start goes to the member with the
smallest share of the cluster relative to its priority, so that no member starves. A start is granted only if its
resources are free.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

PATIENCE_SECONDS = 5.0
"""A member that has not asked again for this time no longer waits and does not block other members."""
MEMBERS = 1000
Resources = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """A member's request. It is complete, so that a lost queue can be rebuilt from the members' next requests."""

    name: str
    priority: float
    needs: Resources
    """Resources of one trial, or of a whole training."""
    running: int
    job: str = ""
    """Ray's id of the member's job. Resources that this job has reserved count as the member's."""
    most: float = float("inf")
    """Maximum number of concurrent starts."""


@dataclass
class Member:
    """A member of the queue: it has asked and has not left."""

    request: ResourceRequest
    since: float
    running: int = 0
    asked_at: float = float("-inf")
    served: float = 0.0
    """Sum of the shares granted so far, divided by priority. Breaks ties: less comes first."""
    served_at: float = float("-inf")
    room: Resources = field(default_factory=dict)
    """Resources available to the member when it last asked."""


class Shares:
    """Table of the members, with the decision which of them may start next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Create an empty table; clock returns seconds."""
        self.members, self.clock = dict[str, Member](), clock

    def ask(self, request: ResourceRequest, room: Resources) -> bool:
        """Return whether the member may start one more now; room is the cluster's resources that members may use."""
        member = self.members.get(request.name)
        if member is None:
            if len(self.members) >= MEMBERS:
                return False
            least = min((other.served for other in self.members.values()), default=0.0)
            member = self.members[request.name] = Member(request, self.clock(), served=least)
        member.request, member.running, member.asked_at, member.room = request, request.running, self.clock(), room
        first = min(self._waiting(room), key=lambda other: self._rank(other, room))
        granted = first is member and self._fits(request.needs, room)
        if granted:
            member.running += 1
            member.served += _part(request, room)
            member.served_at = self.clock()
        return granted

    def tell(self, name: str, running: int) -> None:
        """Set the number of a member's running trials."""
        if name in self.members:
            self.members[name].running = running

    def leave(self, name: str) -> None:
        """Remove a member."""
        self.members.pop(name, None)

    def waits(self, member: Member) -> bool:
        """Return whether a member asked recently and runs fewer trials than it wants."""
        return member.running < member.request.most and self.clock() - member.asked_at < PATIENCE_SECONDS

    def waits_for(self, member: Member) -> str:
        """Describe the resources that a member waits for, or "its turn"; return "" if it does not wait."""
        if not self.waits(member):
            return ""
        free = {kind: member.room.get(kind, 0.0) - n for kind, n in self._in_use(member.request.needs).items()}
        short = [
            f"{amount:g} {kind} ({max(0.0, free[kind]):g} of {member.room.get(kind, 0.0):g} free)"
            for kind, amount in member.request.needs.items()
            if amount > free[kind]
        ]
        return ", ".join(short) or "its turn"

    def _waiting(self, room: Resources) -> list[Member]:
        """Return the waiting members; those too large for the whole cluster count only if there are no others."""
        wanting = [member for member in self.members.values() if self.waits(member)]
        possible = [other for other in wanting if all(room.get(k, 0) >= n for k, n in other.request.needs.items())]
        return possible or wanting

    def _rank(self, member: Member, room: Resources) -> tuple[float, float, float, float]:
        return member.running * _part(member.request, room), member.served, -member.request.priority, member.served_at

    def _fits(self, needs: Resources, room: Resources) -> bool:
        in_use = self._in_use(needs)
        return all(in_use[kind] + amount <= room.get(kind, 0) for kind, amount in needs.items())

    def _in_use(self, kinds: Iterable[str]) -> dict[str, float]:
        members = self.members.values()
        return {k: sum(m.running * m.request.needs.get(k, 0.0) for m in members) for k in kinds}


def _part(request: ResourceRequest, room: Resources) -> float:
    """Return the dominant share of one start: the largest fraction of any resource, divided by priority."""
    return max((n / room[k] for k, n in request.needs.items() if room.get(k)), default=0.0) / request.priority
