"""How many replicas a model has: by the seconds of work that wait; requests differ a thousandfold in it."""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

BACKLOG, TARGET = "backlog_seconds", "target_backlog_seconds"
"""What every replica reports of itself, and what it is told to have waiting."""


def replicas_for(waiting: float, target: float, low: int, high: int) -> int:
    """Return the replicas by which waiting seconds of work come down to the target each."""
    return max(low, min(high, math.ceil(waiting / target)))


def by_backlog(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Return the number of replicas wanted and the policy's state: a policy of Ray Serve."""
    metrics, low = context.aggregated_metrics or {}, context.capacity_adjusted_min_replicas
    waiting, targets = metrics.get(BACKLOG, {}), metrics.get(TARGET, {})
    if not targets:
        return max(low, context.target_num_replicas), context.policy_state
    target = max(targets.values())
    return (
        replicas_for(sum(waiting.values()), target, low, context.capacity_adjusted_max_replicas),
        context.policy_state,
    )
