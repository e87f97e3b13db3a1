"""Runs measurements in order within a time limit, and keeps their figures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gen_ray.bench.gpu import memory
from gen_ray.bench.gpu.alternating import Conditions, OutOfTimeError
from gen_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BenchTask:
    """One measurement: its kind, family and estimated seconds, and the work."""

    kind: str
    family: str
    seconds: float
    work: Callable[[Conditions], dict[str, Any]]

    @property
    def name(self) -> str:
        """Return, for instance, "training ddpm"."""
        return f"{self.kind} {self.family}"


NOT_REACHED = "the run ended before it was finished"
"""Initial reason of each measurement, because a run may end at any moment."""


@dataclass
class BenchOutcome:
    """The figures by kind and family, and the measurements without any, each with the reason."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def run(
    tasks: Sequence[BenchTask],
    device: torch.device,
    outcome: BenchOutcome,
    *,
    limit_seconds: float,
    rounds: int,
    announce: Callable[[str], None],
    save: Callable[[BenchOutcome], None],
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Run the tasks and fill outcome; announce is called before each task and save after it, so that no figure is lost.

    outcome lists all measurements at any time, also after an interruption. save is also called at the start, so that an
    unwritable file ends the run at once. A measurement that may not fit into the remaining time is left out. A failed
    measurement does not stop the others.
    """
    began = clock()
    outcome.not_measured.update({task.name: NOT_REACHED for task in tasks})
    conditions = Conditions(device=device, rounds=rounds, deadline=began + limit_seconds, clock=clock)
    save(outcome)
    try:
        for task in tasks:
            remaining_seconds = conditions.deadline - clock()
            if remaining_seconds < task.seconds:
                needed, remaining = duration(task.seconds), duration(max(0.0, remaining_seconds))
                outcome.not_measured[task.name] = f"takes about {needed}; {remaining} were left"
                continue
            announce(f"{task.name}: about {duration(task.seconds)} of the {duration(remaining_seconds)} that are left")
            _carry_out(task, conditions, outcome)
            outcome.seconds = clock() - began
            save(outcome)
    finally:
        outcome.seconds = clock() - began
    save(outcome)


def duration(seconds: float) -> str:
    """Return, for instance, "23 s", or "0.7 s" of a short time."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _carry_out(task: BenchTask, conditions: Conditions, outcome: BenchOutcome) -> None:
    began = conditions.clock()
    try:
        memory.release(conditions.device)
        figures = task.work(conditions)
    except OutOfTimeError:
        outcome.not_measured[task.name] = "the time limit was reached during its set-up"
    except UserError:
        raise
    except Exception as error:  # such as out of memory: the report names it, the others are still measured
        line = (str(error).strip().splitlines() or [""])[0]
        del outcome.not_measured[task.name]
        outcome.failed[task.name] = f"{type(error).__name__}: {line}"
    else:
        del outcome.not_measured[task.name]
        of_kind = outcome.figures.setdefault(task.kind, {})
        of_kind[task.family] = figures | {"seconds": conditions.clock() - began}
