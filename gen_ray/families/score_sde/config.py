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
    sde: Annotated[Sde, named("vp")] = Field(default={"name": "vp"}, validate_default=True)
    predict: Literal["eps", "v"] = "eps"
    weighting: Literal["eps", "likelihood"] = "eps"
    dequantise: bool = True
    clip: bool = True
    steps: int = Field(1000, ge=1, le=100_000)
    solver: Annotated[ode.Solver, named("rk4")] = Field(default={"name": "rk4"}, validate_default=True)
    trace: Literal["hutchinson", "exact"] = "hutchinson"
    net: Annotated[DenoiserConfig, named("unet")] = Field(default={"name": "unet"}, validate_default=True)
