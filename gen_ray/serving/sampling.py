"""Request bodies of sample and impute."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from gen_ray.serving import inputs
from gen_ray.serving.schemas_base import MOST, Body, Nested, Picture, Samples, instances, one_of
from gen_ray.serving.service import ModelCard, Quality, Verb


class SamplingBody(Body):
    """Fields of all requests that draw samples."""

    format: Samples = "json"
    n: int = Field(default=1, ge=1, le=MOST)
    sampler: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:=,+-]{1,64}$", description="NAME:option=value")
    steps: int | None = Field(default=None, ge=1, le=100_000)
    stream: bool = Field(default=False, description="Server-sent events: preview, result, error.")
    previews: int | None = Field(default=None, ge=0, le=50, description="Number of previews of a stream. Default: 10.")

    @model_validator(mode="after")
    def _each_has_an_effect(self) -> Self:
        if self.previews is not None and not self.stream:
            raise ValueError("previews are only sent with stream: true")
        if self.stream and self.format not in ("json", "png"):
            raise ValueError("a stream ends in format json or png")
        return self

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the job, with those for sampling."""
        previews = (10 if self.previews is None else self.previews) if self.stream else 0
        how = {name: getattr(self, name) for name in ("n", "sampler", "steps")}
        return {**super().job_fields(), **how, "previews": previews}


class SampleBody(SamplingBody):
    """Draw n samples."""

    verb: ClassVar[Verb] = "sample"

    quality: Quality | None = Field(
        default=None, description="Choose sampler and steps from the measured cost-quality curve."
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.quality is not None and (self.sampler is not None or self.steps is not None):
            raise ValueError("quality chooses sampler and steps; give either quality, or sampler and steps")
        return self

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the job, with quality. Imputers have no measured curve."""
        return {**super().job_fields(), "quality": self.quality}


class ImputeBody(SamplingBody):
    """Complete the missing part of one instance, n times: image or x with a mask, or a text with hole characters."""

    verb: ClassVar[Verb] = "impute"

    image: Picture | None = None
    x: Nested | None = None
    mask: str | list[Any] | None = Field(
        default=None, description="Picture that is white where values are missing, or nested lists with 1 there."
    )
    resize: bool = Field(default=False, description="Scale pictures of another size.")
    text: str | None = Field(default=None, max_length=2**20)
    hole: str = Field(default="_", min_length=1, max_length=1)

    @model_validator(mode="after")
    def _one_instance(self) -> Self:
        one_of(self, ("image", "x", "text"))
        if (self.mask is None) == (self.text is None):
            raise ValueError("give a mask with image or x; in a text, hole characters mark what is missing")
        return self

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return x and mask (True where known), (1, *shape) each."""
        if self.text is not None:
            x, known = inputs.from_masked_text(self.text, self.hole, card.spec)
            return {"x": x, "mask": known}
        assert self.mask is not None
        images = None if self.image is None else [self.image]
        x = instances(card, pixels, images=images, x=self.x, field="image", resize=self.resize, many=False)
        return {"x": x, "mask": inputs.known_by(self.mask, card.spec, pixels=pixels, resize=self.resize)}
