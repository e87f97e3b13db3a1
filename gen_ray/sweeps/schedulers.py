"""Configurations of trial schedulers: no pruning, early stopping, or population based training."""

from typing import Annotated, Literal

from pydantic import Field

from gen_ray.configuration.base import Config, named


class NoPruning(Config):
    """No early stopping: every trial trains to its end."""

    name: Literal["none"] = "none"


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2020): one of ``reduction`` trials continues from each rung."""

    name: Literal["asha"] = "asha"
    grace_epochs: int = Field(1, ge=1, le=10_000_000, description="epochs before which no trial is stopped")
    reduction: int = Field(3, ge=2, le=1000, description="one of this number of trials continues from each rung")


class MedianConfig(Config):
    """Median stopping: trials that are worse than the median of the others are stopped."""

    name: Literal["median"] = "median"
    grace_epochs: int = Field(1, ge=1, le=10_000_000, description="epochs before which no trial is stopped")


class PopulationConfig(Config):
    """Population based training (Jaderberg et al. 2017): the worst trials copy the best ones and change settings."""

    name: Literal["pbt"] = "pbt"
    interval_epochs: int = Field(ge=1, le=10_000_000, description="epochs between comparisons of all trials")
    quantile: float = Field(0.25, gt=0, le=0.5, description="share of trials that copy, and of donors")
    resample: float = Field(0.25, ge=0, le=1, description="probability of a random value instead of a step")


Scheduler = Annotated[
    NoPruning | AshaConfig | MedianConfig | PopulationConfig, Field(discriminator="name"), named("none")
]
