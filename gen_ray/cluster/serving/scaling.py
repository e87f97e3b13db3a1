"""The autoscaling policy: the number of replicas by queued seconds of work.

The number of requests is not a measure of it, because their durations differ by a factor of a thousand.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

BACKLOG, TARGET = "backlog_seconds", "target_backlog_seconds"
"""Names of the metrics that each replica reports: its queued seconds of work, and their target."""


def replicas_for(waiting: float, target: float, low: int, high: int) -> int:
    """Return the number of replicas with which each has at most target of the waiting seconds of work."""
    return max(low, min(high, math.ceil(waiting / target)))


def by_backlog(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Return the target number of replicas and the policy's state (the interface of Ray Serve's policies)."""
    metrics, low = context.aggregated_metrics or {}, context.capacity_adjusted_min_replicas
    waiting, targets = metrics.get(BACKLOG, {}), metrics.get(TARGET, {})
    if not targets:
        return max(low, context.target_num_replicas), context.policy_state
    target = max(targets.values())
    return (
        replicas_for(sum(waiting.values()), target, low, context.capacity_adjusted_max_replicas),
        context.policy_state,
    )
