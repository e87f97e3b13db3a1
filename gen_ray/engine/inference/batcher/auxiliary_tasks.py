"""Turns of guests that evaluate the net in their own thread: one at a time, while the batcher's forwards continue."""

import time

from gen_ray.engine.inference.batcher.batched_net import GradientTurn


class GradientTurns:
    """The turns that wait, and the one that was granted. Used in the batcher's thread only.

    A granted turn and the forwards that run beside it divide the cores: each is charged half of the time that both run.
    """

    def __init__(self) -> None:
        """Start without turns."""
        self.waiting: list[GradientTurn] = []
        self._granted: GradientTurn | None = None
        self._began = self._of_others = 0.0

    @property
    def can_grant(self) -> bool:
        """Return whether a turn waits and none is granted."""
        return bool(self.waiting) and self._granted is None

    def grant(self, turn: GradientTurn) -> None:
        """Let a guest evaluate the net."""
        self.waiting.remove(turn)
        self._granted, self._began, self._of_others = turn, time.perf_counter(), 0.0
        turn.granted.set_result(None)

    def own_part(self, seconds: float) -> float:
        """Return the seconds that a forward is charged."""
        if self._granted is None:
            return seconds
        self._of_others += seconds / 2
        return seconds / 2

    def end(self) -> float:
        """Take the granted turn back and return the seconds that it is charged."""
        self._granted = None
        return max(0.0, time.perf_counter() - self._began - self._of_others)

    def drop(self) -> None:
        """Wake the guests that need not wait any more, with the reason."""
        for turn in list(self.waiting):
            if obstacle := turn.ticket.cancel_reason:
                self.waiting.remove(turn)
                turn.granted.set_exception(obstacle)
