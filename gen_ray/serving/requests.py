"""The bodies of requests: what may be asked for, within which bounds, and what of it the engine gets to see."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen_ray.errors import nearest
from gen_ray.serving import inputs
from gen_ray.serving.desk import Card, Quality, Verb

Samples = Literal["json", "png", "npz", "grid", "text"]
Numbers = Literal["json", "npz"]
Picture = Annotated[str, Field(min_length=1, description="Base64 of a PNG, JPEG, BMP or WEBP file; never a URL.")]
Nested = Annotated[list[Any], Field(min_length=1, description="Nested lists of stored integers.")]
Finite = Annotated[float, Field(ge=-1e6, le=1e6)]
MOST = 4096
"""Of anything countable in one request; a model's own limits are narrower."""


class Body(BaseModel):
    """What every request may say."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
    verb: ClassVar[Verb]
    counted: ClassVar[str | None] = None
    """The field whose length is the number of instances; None where there is none."""

    format: str = "json"
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Drawn if left out; always returned.")
    deterministic: bool = Field(default=False, description="The same bytes in any company, at the price of padding.")
    deadline_seconds: float | None = Field(default=None, ge=0.001, le=86400)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, body: Any) -> Any:
        """Tell the nearest key rather than the wrong one: nothing that was sent is sent back."""
        unknown = [key for key in body if key not in cls.model_fields] if isinstance(body, Mapping) else []
        if unknown:
            raise ValueError(f"has a key that is not known; {nearest(str(unknown[0])[:64], cls.model_fields)}")
        return body

    def asked(self) -> dict[str, Any]:
        """Return the fields of a Job that the body itself holds."""
        return {"deterministic": self.deterministic}

    def arrays(self, card: Card, pixels: int) -> Mapping[str, Any]:
        """Return x, mask and z as far as the verb heeds them. Raise RefusedError 422."""
        return {}


class Sampling(Body):
    """How samples are drawn."""

    format: Samples = "json"
    n: int = Field(default=1, ge=1, le=MOST)
    sampler: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:=,+-]{1,64}$", description="NAME:option=value")
    steps: int | None = Field(default=None, ge=1, le=100_000)
    quality: Quality | None = Field(default=None, description="Chooses sampler and steps by the measured curve.")
    stream: bool = Field(default=False, description="Server-sent events: preview, result, error.")
    previews: int | None = Field(default=None, ge=0, le=50, description="Of a stream; 10 if left out.")

    @model_validator(mode="after")
    def _each_has_an_effect(self) -> Self:
        if self.quality is not None and (self.sampler is not None or self.steps is not None):
            raise ValueError("quality chooses sampler and steps; leave it out, or them")
        if self.previews is not None and not self.stream:
            raise ValueError("previews are only sent with stream: true")
        if self.stream and self.format not in ("json", "png"):
            raise ValueError("a stream ends in format json or png")
        return self

    def asked(self) -> dict[str, Any]:
        """Return how to sample."""
        previews = (10 if self.previews is None else self.previews) if self.stream else 0
        how = {name: getattr(self, name) for name in ("n", "sampler", "steps", "quality")}
        return {**super().asked(), **how, "previews": previews}


class Sample(Sampling):
    """Draw n samples."""

    verb: ClassVar[Verb] = "sample"


class Impute(Sampling):
    """Fill the holes of one instance, n times: image or x with a mask, or a text in which a character marks holes."""

    verb: ClassVar[Verb] = "impute"

    image: Picture | None = None
    x: Nested | None = None
    mask: str | list[Any] | None = Field(default=None, description="A picture, white where a hole is; or 0 and 1.")
    resize: bool = Field(default=False, description="Scale pictures of another size.")
    text: str | None = Field(default=None, max_length=2**20)
    hole: str = Field(default="_", min_length=1, max_length=1)

    @model_validator(mode="after")
    def _one_instance(self) -> Self:
        one_of(self, ("image", "x", "text"))
        if (self.mask is None) == (self.text is None):
            raise ValueError("image and x need a mask; a text has its holes in itself")
        return self

    def arrays(self, card: Card, pixels: int) -> Mapping[str, Any]:
        """Return x and where it is known, (1, *shape) each."""
        if self.text is not None:
            x, known = inputs.from_holed_text(self.text, self.hole, card.spec)
            return {"x": x, "mask": known}
        assert self.mask is not None
        images = None if self.image is None else [self.image]
        x = instances(card, pixels, images=images, x=self.x, field="image", resize=self.resize, many=False)
        return {"x": x, "mask": inputs.known_by(self.mask, card.spec, pixels=pixels, resize=self.resize)}


class Instances(Body):
    """Given instances, as pictures, nested lists or texts."""

    counted: ClassVar[str | None] = "x"

    images: Annotated[list[Picture], Field(min_length=1, max_length=MOST)] | None = None
    x: Nested | None = None
    texts: Annotated[list[str], Field(min_length=1, max_length=MOST)] | None = None
    resize: bool = Field(default=False, description="Scale pictures of another size.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        one_of(self, ("images", "x", "texts"))
        return self

    def arrays(self, card: Card, pixels: int) -> Mapping[str, Any]:
        """Return x (N, *shape)."""
        if self.texts is not None:
            return {"x": inputs.from_texts(self.texts, card.spec, "texts")}
        return {"x": instances(card, pixels, images=self.images, x=self.x, field="images", resize=self.resize)}


class Score(Instances):
    """Measure the likelihood of instances in bits/dim."""

    verb: ClassVar[Verb] = "score"

    format: Numbers = "json"
    effort: int | None = Field(default=None, ge=1, le=100_000, description="How exactly, in the likelihood's own unit.")

    def asked(self) -> dict[str, Any]:
        """Return how hard to try."""
        return {**super().asked(), "effort": self.effort}


class Encode(Instances):
    """Find where instances lie in the latent space."""

    verb: ClassVar[Verb] = "encode"
    format: Numbers = "json"


class Reconstruct(Instances):
    """Encode instances and decode them again."""

    verb: ClassVar[Verb] = "reconstruct"
    format: Samples = "json"


class Decode(Body):
    """Turn latent vectors into samples."""

    verb: ClassVar[Verb] = "decode"
    counted: ClassVar[str | None] = "z"
    format: Samples = "json"
    z: Annotated[list[list[Finite]], Field(min_length=1, max_length=MOST)]

    def arrays(self, card: Card, pixels: int) -> Mapping[str, Any]:
        """Return z (N, Z)."""
        return {"z": inputs.from_latents(self.z, card.latent_dim)}


def instances(
    card: Card,
    pixels: int,
    *,
    images: Sequence[str] | None,
    x: Sequence[Any] | None,
    field: str,
    resize: bool,
    many: bool = True,
) -> np.ndarray:
    """Return pictures, or else nested lists, as stored data (N, *shape). Raise RefusedError 422."""
    if images is not None:
        return inputs.from_pictures(images, card.spec, field, pixels=pixels, resize=resize)
    return inputs.from_lists(x or [], card.spec, many=many)


def one_of(body: Body, names: Sequence[str]) -> None:
    """Raise ValueError unless exactly one of the fields is given."""
    if sum(getattr(body, name) is not None for name in names) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}")
