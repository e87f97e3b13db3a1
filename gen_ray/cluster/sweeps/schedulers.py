"""Ray Tune's schedulers as a sweep's configuration names them."""

from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from gen_ray.sweeps.config import SweepPlan
from gen_ray.sweeps.schedulers import AshaConfig, MedianConfig


def stopping(plan: SweepPlan) -> TrialScheduler:
    """Return what stops a sweep's trials early, or lets each train to its end."""
    wanted = plan.sweep.scheduler
    mode: dict[str, Any] = {"time_attr": "epoch", "metric": plan.sweep.metric, "mode": plan.sweep.direction[:3]}
    if isinstance(wanted, AshaConfig):
        # One more than there are: else it would end a trial at its last validation, before it is measured.
        return ASHAScheduler(
            max_t=plan.epochs + 1, grace_period=wanted.grace_epochs, reduction_factor=wanted.reduction, **mode
        )
    if isinstance(wanted, MedianConfig):
        return MedianStoppingRule(grace_period=wanted.grace_epochs, **mode)
    return FIFOScheduler()
