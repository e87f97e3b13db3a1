"""Gradient turns: an auxiliary task that needs gradients evaluates the network in its own thread, one at a time."""

import time

from gen_ray.engine.inference.batcher.batched_net import GradientTurn


class GradientTurns:
    """The waiting turns and the granted one. Used in the batcher's thread only.

    A granted turn and the forwards beside it divide the cores: each is charged half of the time during which both run.
    """

    def __init__(self) -> None:
        """Start without turns."""
        self.waiting: list[GradientTurn] = []
        self._granted: GradientTurn | None = None
        self._began = self._shared = 0.0

    @property
    def can_grant(self) -> bool:
        """Return whether a turn waits and none is granted."""
        return bool(self.waiting) and self._granted is None

    def grant(self, turn: GradientTurn) -> None:
        """Let the task of a turn evaluate the network."""
        self.waiting.remove(turn)
        self._granted, self._began, self._shared = turn, time.perf_counter(), 0.0
        turn.granted.set_result(None)

    def charged_seconds(self, seconds: float) -> float:
        """Return the seconds charged for a forward that took seconds."""
        if self._granted is None:
            return seconds
        self._shared += seconds / 2
        return seconds / 2

    def end(self) -> float:
        """End the granted turn and return the seconds charged for it."""
        self._granted = None
        return max(0.0, time.perf_counter() - self._began - self._shared)

    def drop_cancelled(self) -> None:
        """Wake the tasks whose request was cancelled or is late, with the error."""
        for turn in list(self.waiting):
            if reason := turn.handle.cancel_reason:
                self.waiting.remove(turn)
                turn.granted.set_exception(reason)
