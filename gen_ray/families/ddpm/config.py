"""The settings of a DDPM."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gen_ray.configuration.base import named
from gen_ray.family import FamilyConfig
from gen_ray.maths.schedules import Learnable, Learned
from gen_ray.nets import DenoiserConfig


class DdpmConfig(FamilyConfig):
    """What a DDPM needs to know beyond its data."""

    name: Literal["ddpm"] = "ddpm"
    schedule: Annotated[Learnable, named("cosine")] = Field(default={"name": "cosine"}, validate_default=True)
    steps: int = Field(1000, ge=2, le=100_000)
    predict: Literal["eps", "x_0", "v"] = "eps"
    variance: Literal["small", "large", "learned"] = "small"
    loss: Literal["simple", "vlb"] = "simple"
    vlb_weight: float | None = Field(None, gt=0, le=1e6)
    min_snr: float | None = Field(None, gt=0, le=1e9, description="what the error of x_0 counts at most in loss=simple")
    clip: bool = True
    net: Annotated[DenoiserConfig, named("unet")] = Field(default={"name": "unet"}, validate_default=True)

    @model_validator(mode="after")
    def _effective(self) -> "DdpmConfig":
        hybrid = self.variance == "learned" and self.loss == "simple"
        if self.vlb_weight is not None and not hybrid:
            raise ValueError("vlb_weight has no effect without variance=learned and loss=simple (the hybrid loss)")
        if self.min_snr is not None and self.loss != "simple":
            raise ValueError("min_snr weighs loss=simple (Hang et al. 2023); the bound has weights of its own")
        if isinstance(self.schedule, Learned) and (self.loss, self.variance) != ("vlb", "small"):
            raise ValueError("schedule=learned learns from the bound of the exact posterior: loss=vlb, variance=small")
        return self
