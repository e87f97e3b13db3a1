"""Whose turn it is on a cluster that several sweeps and trainings share.

Dominant resource fairness (Ghodsi et al. 2011), weighted by priority: the next to begin something is who has the
smallest part of the cluster for its priority, so nobody starves. Nothing begins for which there is no room.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

PATIENCE_SECONDS = 5.0
"""Who has not asked again for so long is not waiting any more, and keeps nobody from beginning."""
MEMBERS = 1000
Resources = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a member asks for each time: all there is to know of it, so that a queue that was lost is built anew."""

    name: str
    priority: float
    needs: Resources
    """Of one trial, or of a whole training."""
    running: int
    job: str = ""
    """Ray's id of the member's job: what that job has reserved is the member's own."""
    most: float = float("inf")
    """How many it would have running at a time."""


@dataclass
class Member:
    """One that has asked, and not left."""

    wish: Wish
    since: float
    running: int = 0
    asked_at: float = float("-inf")
    served: float = 0.0
    """Parts of the cluster given to it so far, by its priority: who had less of it comes first among equals."""
    served_at: float = float("-inf")
    room: Resources = field(default_factory=dict)
    """What the cluster had for it when it last asked."""


class Shares:
    """The members and what each has."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no members."""
        self.members, self.clock = dict[str, Member](), clock

    def ask(self, wish: Wish, room: Resources) -> bool:
        """Return whether the member may begin one more now, on a cluster of so much room."""
        member = self.members.get(wish.name)
        if member is None:
            if len(self.members) >= MEMBERS:
                return False
            least = min((other.served for other in self.members.values()), default=0.0)
            member = self.members[wish.name] = Member(wish, self.clock(), served=least)
        member.wish, member.running, member.asked_at, member.room = wish, wish.running, self.clock(), room
        first = min(self._waiting(room), key=lambda other: self._rank(other, room))
        granted = first is member and self._fits(wish.needs, room)
        if granted:
            member.running += 1
            member.served += _part(wish, room)
            member.served_at = self.clock()
        return granted

    def tell(self, name: str, running: int) -> None:
        """Note how many a member has running."""
        if name in self.members:
            self.members[name].running = running

    def leave(self, name: str) -> None:
        """Forget a member."""
        self.members.pop(name, None)

    def waits(self, member: Member) -> bool:
        """Return whether a member asked a moment ago, and has not all it would have."""
        return member.running < member.wish.most and self.clock() - member.asked_at < PATIENCE_SECONDS

    def waits_for(self, member: Member) -> str:
        """Return in words which resources a member waits for, else "its turn"; empty where it does not wait."""
        if not self.waits(member):
            return ""
        free = {kind: member.room.get(kind, 0.0) - taken for kind, taken in self._taken(member.wish.needs).items()}
        short = [
            f"{amount:g} {kind} ({max(0.0, free[kind]):g} of {member.room.get(kind, 0.0):g} free)"
            for kind, amount in member.wish.needs.items()
            if amount > free[kind]
        ]
        return ", ".join(short) or "its turn"

    def _waiting(self, room: Resources) -> list[Member]:
        """Return who wants to begin; those for whom the whole cluster is too small come into question only alone."""
        wanting = [member for member in self.members.values() if self.waits(member)]
        possible = [other for other in wanting if all(room.get(k, 0) >= n for k, n in other.wish.needs.items())]
        return possible or wanting

    def _rank(self, member: Member, room: Resources) -> tuple[float, float, float, float]:
        return member.running * _part(member.wish, room), member.served, -member.wish.priority, member.served_at

    def _fits(self, needs: Resources, room: Resources) -> bool:
        taken = self._taken(needs)
        return all(taken[kind] + amount <= room.get(kind, 0) for kind, amount in needs.items())

    def _taken(self, kinds: Iterable[str]) -> dict[str, float]:
        members = self.members.values()
        return {k: sum(m.running * m.wish.needs.get(k, 0.0) for m in members) for k in kinds}


def _part(wish: Wish, room: Resources) -> float:
    """Return the part of the cluster that one of its trials takes, of whatever it takes most of, by its priority."""
    return max((n / room[k] for k, n in wish.needs.items() if room.get(k)), default=0.0) / wish.priority
