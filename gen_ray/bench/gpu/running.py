"""Carries out measurements in their order within a time limit, and keeps their figures."""

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
    *,
    limit_seconds: float,
    rounds: int,
    announce: Callable[[str], None],
    save: Callable[[BenchOutcome], None],
    clock: Callable[[], float] = time.perf_counter,
) -> BenchOutcome:
    """Return the outcome; announce is called before each measurement, and save after each, so that no figure is lost.

    save is also called at the start, so that a file that cannot be written ends the run at once. A measurement that may
    not fit into the rest of the time is left out. One that fails does not stop the others.
    """
    began, found = clock(), BenchOutcome()
    conditions = Conditions(device=device, rounds=rounds, deadline=began + limit_seconds, clock=clock)
    save(found)
    for task in tasks:
        left = conditions.deadline - clock()
        if left < task.seconds:
            found.not_measured[task.name] = f"takes about {task.seconds:.0f} s; {max(0.0, left):.0f} s were left"
            continue
        announce(f"{task.name}: about {task.seconds:.0f} s of the {left:.0f} s that are left")
        _carry_out(task, conditions, found)
        found.seconds = clock() - began
        save(found)
    found.seconds = clock() - began
    save(found)
    return found


def _carry_out(task: BenchTask, conditions: Conditions, found: BenchOutcome) -> None:
    began = conditions.clock()
    try:
        memory.release(conditions.device)
        figures = task.work(conditions)
    except OutOfTimeError:
        found.not_measured[task.name] = "the time limit was reached during its set-up"
    except UserError:
        raise
    except Exception as error:  # for instance out of memory: the others are measured, and the report names this one
        line = (str(error).strip().splitlines() or [""])[0]
        found.failed[task.name] = f"{type(error).__name__}: {line}"
    else:
        of_kind = found.figures.setdefault(task.kind, {})
        of_kind[task.family] = figures | {"seconds": conditions.clock() - began}
