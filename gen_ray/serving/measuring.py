"""Request bodies with instances or latent vectors: score, encode, reconstruct and decode."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from gen_ray.serving import inputs
from gen_ray.serving.schemas_base import MOST, Body, Latents, Nested, Numbers, Picture, Samples, instances, one_of
from gen_ray.serving.service import ModelCard, Verb


class InstancesBody(Body):
    """Instances as pictures, nested lists or texts."""

    images: Annotated[list[Picture], Field(min_length=1, max_length=MOST, fail_fast=True)] | None = None
    x: Nested | None = None
    texts: Annotated[list[str], Field(min_length=1, max_length=MOST, fail_fast=True)] | None = Field(
        default=None, description="Texts, each of as many characters as the model's texts have."
    )
    resize: bool = Field(default=False, description="Scale pictures of another size.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        one_of(self, ("images", "x", "texts"))
        return self

    @property
    def count(self) -> int:
        """Return the number of instances."""
        return len(self.images or self.x or self.texts or ())

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return the instances x (N, *shape)."""
        if self.texts is not None:
            return {"x": inputs.from_texts(self.texts, card.spec, "texts")}
        return {"x": instances(card, pixels, images=self.images, x=self.x, field="images", resize=self.resize)}


class ScoreBody(InstancesBody):
    """Measure the likelihood of instances in bits/dim."""

    verb: ClassVar[Verb] = "score"

    format: Numbers = "json"
    effort: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Accuracy of the estimate; the unit depends on the kind of likelihood.",
    )

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the job, with the effort."""
        return {**super().job_fields(), "effort": self.effort}


class EncodeBody(InstancesBody):
    """Encode instances: mean and log-variance of their latent variables."""

    verb: ClassVar[Verb] = "encode"
    format: Numbers = "json"


class ReconstructBody(InstancesBody):
    """Encode instances and decode them again."""

    verb: ClassVar[Verb] = "reconstruct"
    format: Samples = "json"


class DecodeBody(Body):
    """Decode latent vectors to samples."""

    verb: ClassVar[Verb] = "decode"
    format: Samples = "json"
    z: Latents

    @property
    def count(self) -> int:
        """Return the number of latent vectors."""
        return len(self.z)

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return the latent vectors z (N, Z)."""
        return {"z": inputs.from_latents(self.z, card.latent_dim)}
