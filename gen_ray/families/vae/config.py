"""The settings of a VAE."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gen_ray.configuration.base import named
from gen_ray.family import FamilyConfig
from gen_ray.maths.observation import OBSERVATIONS
from gen_ray.nets import AutoencoderConfig


class VaeConfig(FamilyConfig):
    """The settings of a VAE."""

    loss_is_bound: ClassVar[bool] = True

    name: Literal["vae"] = "vae"
    latent_dim: int = Field(20, ge=1, le=65536, description="number of latent variables")
    likelihood: Literal["bernoulli", "logistic", "categorical"] | None = Field(
        None,
        description="p(x|z) of a pixel or an ordered column; null: logistic for pixels, categorical for columns",
    )
    binarise: Literal["static", "dynamic"] | None = Field(
        None,
        description="static: 1 above the middle grey level; dynamic: 1 with the grey level as probability",
    )
    kl_warmup_steps: int = Field(0, ge=0, le=10**9, description="steps in which the weight of the KL term rises to 1")
    net: Annotated[AutoencoderConfig, named("mlp")] = Field(
        default={"name": "mlp"}, validate_default=True, description="encoder and decoder"
    )

    @property
    def modelled_values(self) -> str:
        """Return ``stored``, ``static binary`` or ``dynamic binary``."""
        return f"{self.binarise} binary" if self.binarise else "stored"

    @model_validator(mode="after")
    def _binary_together(self) -> "VaeConfig":
        if (self.likelihood or "logistic", self.binarise) not in OBSERVATIONS:
            raise ValueError("likelihood=bernoulli needs binarise=static or dynamic; binarise has no effect otherwise")
        return self
