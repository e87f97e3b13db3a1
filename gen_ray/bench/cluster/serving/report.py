"""The request kinds of the serving benchmark's load, and its figures by name."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from gen_ray.bench.cluster.serving.load import RequestKind
from gen_ray.bench.cluster.serving.measure import ServingFigures
from gen_ray.errors import UserError
from gen_ray.family import Family

MIXED = 3
"""Default number of samplers in the load: the family's first ones."""


def kinds(family: Family, samplers: Sequence[str] | None) -> list[RequestKind]:
    """Return the request kinds of the load from samplers NAME=STEPS.

    Default: the family's first samplers that are not adaptive, with their default steps.
    """
    if not samplers:
        defaults = [(name, about.default_steps) for name, about in family.samplers().items() if not about.adaptive]
        return [_kind(family, name, steps) for name, steps in defaults[:MIXED]]
    return [_kind(family, *_parsed(text)) for text in samplers]


def _parsed(text: str) -> tuple[str, int]:
    name, _, steps = text.rpartition("=")
    if not name or not steps.isdigit():
        raise UserError("must be NAME=STEPS, such as ddim=50", field="sampler", value=text)
    return name, int(steps)


def _kind(family: Family, name: str, steps: int) -> RequestKind:
    return RequestKind(name, steps, family.chain(name, steps).nfe)


def figures(measured: ServingFigures) -> dict[str, Any]:
    """Return the ratios by which serving is judged, and the quantities that they are computed from."""
    overload = measured.overload
    return {
        "offline_evaluations_per_second": median(measured.offline),
        "served_evaluations_per_second": median(measured.served),
        "served_to_offline": median(
            served / offline for served, offline in zip(measured.served, measured.offline, strict=True)
        ),
        "request_batching_evaluations_per_second": median(measured.request_batching),
        "served_to_request_batching": median(
            served / baseline for served, baseline in zip(measured.served, measured.request_batching, strict=True)
        ),
        "lone_to_in_process": median(
            single / direct for single, direct in zip(measured.single_seconds, measured.in_process_seconds, strict=True)
        ),
        "lone_seconds": median(measured.single_seconds),
        "short_idle_seconds": measured.idle.median,
        "short_beside_long_seconds": measured.during_long.median,
        "short_beside_long_to_idle": measured.during_long.median / measured.idle.median,
        "short_beside_long_to_idle_highest": measured.during_long.quantile(1.0) / measured.idle.median,
        "capacity_requests_per_second": measured.capacity,
        "overload_requests_per_second": measured.overload_rate,
        "overload_statuses": {str(status): count for status, count in sorted(overload.statuses.items()) if count},
        "overload_429_without_retry_after": overload.without_retry_after,
        "overload_median_seconds": overload.median,
        "overload_p99_seconds": overload.quantile(0.99),
        "backlog_limit_seconds": measured.backlog_seconds,
        "after_overload_to_idle": measured.after_overload.median / measured.idle.median,
        "memory_mib": measured.memory_mib,
    }
