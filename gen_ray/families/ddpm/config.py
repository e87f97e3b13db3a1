"""The settings of a DDPM."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gen_ray.configuration.base import named
from gen_ray.family import FamilyConfig
from gen_ray.maths.schedules import Learnable, Learned
from gen_ray.nets import DenoiserConfig


class DdpmConfig(FamilyConfig):
    """The settings of a DDPM."""

    name: Literal["ddpm"] = "ddpm"
    schedule: Annotated[Learnable, named("cosine")] = Field(
        default={"name": "cosine"}, validate_default=True, description="the noise schedule"
    )
    steps: int = Field(1000, ge=2, le=100_000, description="T, the number of noise levels")
    predict: Literal["eps", "x_0", "v"] = Field("eps", description="what the network predicts")
    variance: Literal["small", "large", "learned"] = Field(
        "small", description="variance of p(x_{k-1} | x_k); learned: by the network"
    )
    loss: Literal["simple", "vlb"] = Field("simple", description="simple: L_simple; vlb: the variational bound")
    vlb_weight: float | None = Field(
        None, gt=0, le=1e6, description="weight of the bound in the hybrid loss; null: 0.001"
    )
    min_snr: float | None = Field(
        None, gt=0, le=1e9, description="Min-SNR-gamma: upper bound on the SNR weight in loss=simple"
    )
    clip: bool = Field(True, description="clip the data prediction to the range of the data")
    net: Annotated[DenoiserConfig, named("unet")] = Field(
        default={"name": "unet"}, validate_default=True, description="the network"
    )

    @model_validator(mode="after")
    def _effective(self) -> "DdpmConfig":
        hybrid = self.variance == "learned" and self.loss == "simple"
        if self.vlb_weight is not None and not hybrid:
            raise ValueError("vlb_weight has no effect without variance=learned and loss=simple (the hybrid loss)")
        if self.min_snr is not None and self.loss != "simple":
            raise ValueError(
                "min_snr has no effect without loss=simple: it is a weight of that loss (Hang et al. 2023)"
            )
        if isinstance(self.schedule, Learned) and (self.loss, self.variance) != ("vlb", "small"):
            raise ValueError(
                "schedule=learned is trained by the bound with the exact posterior: set loss=vlb, variance=small"
            )
        return self
