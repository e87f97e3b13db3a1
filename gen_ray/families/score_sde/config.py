"""The settings of a score-based model."""

from typing import Annotated, Literal

from pydantic import Field

from gen_ray.configuration.base import named
from gen_ray.family import FamilyConfig
from gen_ray.maths import ode
from gen_ray.maths.sde import Sde
from gen_ray.nets import DenoiserConfig


class ScoreSdeConfig(FamilyConfig):
    """The settings of a score-based model."""

    name: Literal["score_sde"] = "score_sde"
    sde: Annotated[Sde, named("vp")] = Field(
        default={"name": "vp"}, validate_default=True, description="the forward process"
    )
    predict: Literal["eps", "v"] = Field("eps", description="what the network predicts")
    weighting: Literal["eps", "likelihood"] = Field(
        "eps", description="weighting of the loss over time; likelihood: that of maximum likelihood"
    )
    dequantise: bool = Field(True, description="add uniform noise to the grey levels in training")
    clip: bool = Field(True, description="clip the data prediction to the range of the data")
    steps: int = Field(1000, ge=1, le=100_000, description="default steps of the samplers with equal time steps")
    solver: Annotated[ode.Solver, named("rk4")] = Field(
        default={"name": "rk4"}, validate_default=True, description="solver of the flow, for the likelihood"
    )
    trace: Literal["hutchinson", "exact"] = Field("hutchinson", description="trace of the Jacobian: estimated or exact")
    net: Annotated[DenoiserConfig, named("unet")] = Field(
        default={"name": "unet"}, validate_default=True, description="the network"
    )
