"""Ray Tune's schedulers for the settings of a sweep's configuration."""

from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from gen_ray.sweeps.config import SweepPlan
from gen_ray.sweeps.schedulers import AshaConfig, MedianConfig


def stopping(plan: SweepPlan) -> TrialScheduler:
    """Return the scheduler that stops a sweep's trials early, or one that trains each trial to its end."""
    settings = plan.sweep.scheduler
    mode: dict[str, Any] = {"time_attr": "epoch", "metric": plan.sweep.metric, "mode": plan.sweep.direction[:3]}
    if isinstance(settings, AshaConfig):
        # One more epoch than there are: otherwise ASHA ends a trial at its last validation, before its evaluation.
        return ASHAScheduler(
            max_t=plan.epochs + 1, grace_period=settings.grace_epochs, reduction_factor=settings.reduction, **mode
        )
    if isinstance(settings, MedianConfig):
        return MedianStoppingRule(grace_period=settings.grace_epochs, **mode)
    return FIFOScheduler()
