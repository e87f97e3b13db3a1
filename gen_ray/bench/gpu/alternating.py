"""Alternating rounds: a figure and its baseline are measured in turn, so that a change of clock rates affects both."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

LEAST_ROUNDS = 3
"""Minimum number of rounds of a figure even if they take longer than planned, while the run has time."""

Repeat = Callable[[int], object]
"""Repeats some work the given number of times. On a GPU it may return before the work is finished."""


class OutOfTimeError(Exception):
    """The time limit of the run was reached before a measurement had a single round."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Settings shared by all measurements of a run. deadline is in seconds of clock."""

    device: torch.device
    rounds: int
    deadline: float
    clock: Callable[[], float] = field(default=time.perf_counter)

    def check(self) -> None:
        """Raise OutOfTimeError after the deadline."""
        if self.clock() >= self.deadline:
            raise OutOfTimeError

    def finish(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Repeat, times: int = 1) -> float:
        """Return the seconds of the repetitions, on the host and the device together."""
        self.finish()
        began = self.clock()
        work(times)
        self.finish()
        return self.clock() - began


def alternate(conditions: Conditions, sides: Mapping[str, Repeat], *, seconds: float) -> dict[str, list[float]]:
    """Return for each side its seconds per repetition in each round; the sides take turns within a round.

    Each side is warmed up by one call and timed by a second one, which determines the number of repetitions:
    all rounds together take about the given seconds. If they take longer, there are LEAST_ROUNDS of them, or only
    one after the deadline of the run. Raise OutOfTimeError if the deadline comes before the rounds.
    """
    end = conditions.clock() + seconds
    once: dict[str, float] = {}
    for name, work in sides.items():
        conditions.check()
        conditions.seconds(work)
        conditions.check()
        once[name] = conditions.seconds(work)
    conditions.check()
    share = max(0.0, min(end, conditions.deadline) - conditions.clock()) / (conditions.rounds * len(sides))
    times = {name: max(1, int(share / max(duration, 1e-9))) for name, duration in once.items()}
    timings: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(conditions.rounds):
        if number and conditions.clock() >= (conditions.deadline if number < LEAST_ROUNDS else end):
            break
        for name, work in sides.items():
            timings[name].append(conditions.seconds(work, times[name]) / times[name])
    return timings


def ratio(baseline: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """Return the median and the range of the rounds' ratios baseline / measured.

    For seconds, 1 means as fast as the baseline, and less than 1 means slower.
    """
    ratios = [base / own for base, own in zip(baseline, measured, strict=True)]
    return {"ratio": median(ratios), "ratio_lowest": min(ratios), "ratio_highest": max(ratios)}
