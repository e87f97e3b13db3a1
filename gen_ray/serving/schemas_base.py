"""Common parts of all request bodies: strict validation, bounds, and conversion to job fields."""

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
"""The inputs module checks the items against the model's shape, because one pydantic error per item takes seconds."""
VECTORS = {"type": "array", "items": {"type": "number", "minimum": -1e6, "maximum": 1e6}}
Latents = Annotated[list[Any], Field(min_length=1, json_schema_extra={"items": VECTORS})]
"""Lists of numbers, also checked by the inputs module."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, json_schema_extra={"maximum": 2**63 - 1024})]
"""In the document maxima are floats; the float nearest to 2**63 - 1 is 2**63, which would be refused."""
MOST = 4096
"""Maximum number of items of any kind in one request; a model's own limits are lower."""


class Body(BaseModel):
    """Fields of every request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
    verb: ClassVar[Verb]

    format: str = "json"
    seed: Seed | None = Field(default=None, description="Default: random. The seed is always returned.")
    deterministic: bool = Field(
        default=False,
        description="Return the same bytes whatever other requests are in the batch; slower, because of padding.",
    )
    deadline_seconds: float | None = Field(default=None, ge=0.001, le=86400)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, body: Any) -> Any:
        """Refuse unknown keys. The error names the nearest known key and does not repeat the client's."""
        unknown = [key for key in body if key not in cls.model_fields] if isinstance(body, Mapping) else []
        if unknown:
            raise ValueError(f"has a key that is not known; {nearest(str(unknown[0])[:64], cls.model_fields)}")
        return body

    @property
    def count(self) -> int:
        """Return the number of instances in the request."""
        return 0

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of a ServingJob that the body contains."""
        return {"deterministic": self.deterministic}

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return those of x, mask and z that the verb uses. Raise RequestRefusedError 422."""
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
    """Return pictures or nested lists as stored data (N, *shape). Raise RequestRefusedError 422."""
    if images is not None:
        return inputs.from_pictures(images, card.spec, field, pixels=pixels, resize=resize)
    return inputs.from_lists(x or [], card.spec, many=many)


def one_of(body: Body, names: Sequence[str]) -> None:
    """Raise ValueError unless exactly one of the fields is given."""
    if sum(getattr(body, name) is not None for name in names) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}")
