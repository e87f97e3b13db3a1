"""What may happen to a trial on its way: nothing, an early end, or going on as a copy of a better one."""

from typing import Annotated, Literal

from pydantic import Field

from gen_ray.configuration.base import Config, named


class NoPruning(Config):
    """Every trial trains to its end."""

    name: Literal["none"] = "none"


class AshaConfig(Config):
    """Successive halving (Li et al. 2020): from each rung one trial of so many goes on."""

    name: Literal["asha"] = "asha"
    grace_epochs: int = Field(1, ge=1, le=10_000_000, description="before which no trial is stopped")
    reduction: int = Field(3, ge=2, le=1000, description="one of so many goes on from each rung")


class MedianConfig(Config):
    """Trials below the median of the others are stopped."""

    name: Literal["median"] = "median"
    grace_epochs: int = Field(1, ge=1, le=10_000_000, description="before which no trial is stopped")


class PopulationConfig(Config):
    """Population based training (Jaderberg et al. 2017): the worst go on as copies of the best, with other settings."""

    name: Literal["pbt"] = "pbt"
    interval_epochs: int = Field(ge=1, le=10_000_000, description="after which all trials wait and are compared")
    quantile: float = Field(0.25, gt=0, le=0.5, description="share of the worst that copy, and of the best copied")
    resample: float = Field(0.25, ge=0, le=1, description="probability of a fresh value instead of a step from the old")


Scheduler = Annotated[
    NoPruning | AshaConfig | MedianConfig | PopulationConfig, Field(discriminator="name"), named("none")
]
