"""What is asked for in the measurement of serving, and its figures by name."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from gen_ray.bench.cluster.serving.load import RequestKind
from gen_ray.bench.cluster.serving.measure import ServingFigures
from gen_ray.errors import UserError
from gen_ray.family import Family

MIXED = 3
"""Samplers in the load, where none are named: the family's first ones."""


def kinds(family: Family, named: Sequence[str] | None) -> list[RequestKind]:
    """Return the samplers of the load, each from NAME=STEPS, or else the family's own at their defaults."""
    if not named:
        told = [(name, about.default_steps) for name, about in family.samplers().items() if not about.adaptive]
        return [_kind(family, name, steps) for name, steps in told[:MIXED]]
    return [_kind(family, *_parsed(text)) for text in named]


def _parsed(text: str) -> tuple[str, int]:
    name, _, steps = text.rpartition("=")
    if not name or not steps.isdigit():
        raise UserError("must be NAME=STEPS, such as ddim=50", field="sampler", value=text)
    return name, int(steps)


def _kind(family: Family, name: str, steps: int) -> RequestKind:
    return RequestKind(name, steps, family.chain(name, steps).nfe)


def figures(found: ServingFigures) -> dict[str, Any]:
    """Return the ratios that serving is judged by, and what they are made of."""
    over = found.overload
    return {
        "offline_evaluations_per_second": median(found.offline),
        "served_evaluations_per_second": median(found.served),
        "served_to_offline": median(s / o for s, o in zip(found.served, found.offline, strict=True)),
        "request_batching_evaluations_per_second": median(found.requests),
        "served_to_request_batching": median(s / r for s, r in zip(found.served, found.requests, strict=True)),
        "lone_to_in_process": median(a / b for a, b in zip(found.lone, found.in_process, strict=True)),
        "lone_seconds": median(found.lone),
        "short_idle_seconds": found.idle.median,
        "short_beside_long_seconds": found.beside.median,
        "short_beside_long_to_idle": found.beside.median / found.idle.median,
        "short_beside_long_to_idle_highest": found.beside.quantile(1.0) / found.idle.median,
        "capacity_requests_per_second": found.capacity,
        "overload_requests_per_second": found.asked_rate,
        "overload_statuses": {str(status): count for status, count in sorted(over.statuses.items()) if count},
        "overload_429_without_retry_after": over.without_retry_after,
        "overload_median_seconds": over.median,
        "overload_p99_seconds": over.quantile(0.99),
        "backlog_limit_seconds": found.backlog_seconds,
        "after_overload_to_idle": found.after.median / found.idle.median,
        "memory_mib": found.memory,
    }
