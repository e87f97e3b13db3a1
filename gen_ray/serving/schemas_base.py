"""What the bodies of all requests have in common: strictness, bounds, and how the engine gets to see them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen_ray.errors import nearest
from gen_ray.serving import inputs
from gen_ray.serving.service import ModelCard, Verb

Samples = Literal["json", "png", "npz", "grid", "text"]
Numbers = Literal["json", "npz"]
Picture = Annotated[
    str, Field(min_length=1, description="Base64 of a PNG, JPEG, BMP, GIF, WEBP, TIFF or PPM file; never a URL.")
]
Nested = Annotated[list[Any], Field(min_length=1, description="Nested lists of stored integers.")]
"""Items are checked in inputs, against the model's shape: one error for each of them would take seconds."""
VECTORS = {"type": "array", "items": {"type": "number", "minimum": -1e6, "maximum": 1e6}}
Latents = Annotated[list[Any], Field(min_length=1, json_schema_extra={"items": VECTORS})]
"""Lists of numbers, also checked in inputs."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, json_schema_extra={"maximum": 2**63 - 1024})]
"""The document has maxima as floats, and the nearest to 2**63 - 1 would be 2**63, which is refused."""
MOST = 4096
"""Of anything countable in one request; a model's own limits are narrower."""


class Body(BaseModel):
    """What every request may say."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
    verb: ClassVar[Verb]

    format: str = "json"
    seed: Seed | None = Field(default=None, description="Drawn if left out; always returned.")
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

    @property
    def count(self) -> int:
        """Return the number of instances that the request brings."""
        return 0

    def asked(self) -> dict[str, Any]:
        """Return the fields of a Job that the body itself holds."""
        return {"deterministic": self.deterministic}

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return x, mask and z as far as the verb heeds them. Raise RefusedError 422."""
        return {}


def instances(
    card: ModelCard,
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
