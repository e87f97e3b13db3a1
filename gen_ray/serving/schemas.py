"""Schemas of requests: strict validation and bounds of the bodies, and their conversion to job fields."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen_ray.engine.inference.instances import InstanceError
from gen_ray.engine.inference.table_rows import GivenRows
from gen_ray.errors import nearest
from gen_ray.serving import inputs, tables
from gen_ray.serving.service import ModelCard, Quality

Samples = Literal["json", "png", "npz", "grid", "text", "csv"]
Numbers = Literal["json", "npz"]
Scores = Literal["json", "npz", "csv"]
Picture = Annotated[
    str, Field(min_length=1, description="Base64 of a PNG, JPEG, BMP, GIF, WEBP, TIFF or PPM file; never a URL.")
]
Nested = Annotated[list[Any], Field(min_length=1, description="Nested lists of stored integers.")]
"""The inputs module checks the items against the model's shape, because one pydantic error per item takes seconds."""
MAX_ITEMS = 4096
"""Maximum number of items of any kind in one request; a model's own limits are lower."""
VALUES = {"type": "object", "additionalProperties": {"type": ["null", "boolean", "number", "string"]}}
CONDITIONS = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
ONE_ROW = "{column: value}; null, or an absent column, is a missing value; times are ISO 8601."
Rows = Annotated[list[Any], Field(min_length=1, max_length=MAX_ITEMS, json_schema_extra={"items": VALUES})]
Csv = Annotated[str, Field(min_length=1, max_length=2**20)]
CSV = (
    "Rows of a table as CSV text, whose first row names the columns. Empty cells are missing values. Further columns "
    "are passed through to a response in format csv."
)
VECTORS = {"type": "array", "items": {"type": "number", "minimum": -1e6, "maximum": 1e6}}
Latents = Annotated[list[Any], Field(min_length=1, json_schema_extra={"items": VECTORS})]
"""Lists of numbers, also checked by the inputs module."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, json_schema_extra={"maximum": 2**63 - 1024})]
"""In the document maxima are floats; the float nearest to 2**63 - 1 is 2**63, which would be refused."""


class RequestBody(BaseModel):
    """Fields of every request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

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
        """Return those of x, mask and z that the verb uses. Raise InstanceError."""
        return {}

    def table_rows(self, card: ModelCard) -> GivenRows | None:
        """Return the rows of a table in the request, which take the place of ``arrays``. Raise InstanceError."""
        return None


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
    """Return pictures or nested lists as stored data (N, *shape). Raise InstanceError."""
    if images is not None:
        return inputs.from_pictures(images, card.spec, field, pixels=pixels, resize=resize)
    return inputs.from_lists(x or [], card.spec, many=many)


def one_of(body: RequestBody, names: Sequence[str]) -> None:
    """Raise ValueError unless exactly one of the fields is given."""
    if sum(getattr(body, name) is not None for name in names) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}")


class SamplingBody(RequestBody):
    """Fields of all requests that draw samples."""

    format: Samples = "json"
    n: int = Field(default=1, ge=1, le=MAX_ITEMS)
    sampler: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:=,+-]{1,64}$", description="NAME:option=value")
    steps: int | None = Field(default=None, ge=1, le=100_000)
    stream: bool = Field(default=False, description="Server-sent events: preview, result, error.")
    previews: int | None = Field(
        default=None,
        ge=0,
        le=50,
        description="Number of previews of a stream. Default: 10. Rows under conditions with several values have none.",
    )

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

    quality: Quality | None = Field(
        default=None, description="Choose sampler and steps from the measured cost-quality curve."
    )

    where: Annotated[dict[str, Any], Field(min_length=1, json_schema_extra=CONDITIONS)] | None = Field(
        default=None,
        description="Conditions on all rows of a table: {column: value}, or with texts {column: 'LOW..HIGH'} (both "
        "included, either may be left out) and {column: 'VALUE|VALUE'}. notes.where says how they are satisfied.",
        examples=[{"age": "30..40", "education": "Masters|Doctorate", "income": "<=50K"}],
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.quality is not None and (self.sampler is not None or self.steps is not None):
            raise ValueError("quality chooses sampler and steps; give either quality, or sampler and steps")
        return self

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the job, with quality. Imputers lack a measured curve."""
        return {**super().job_fields(), "quality": self.quality}

    def table_rows(self, card: ModelCard) -> GivenRows | None:
        """Return the conditions as one row. Raise InstanceError."""
        return None if self.where is None else inputs.from_conditions(self.where, card.spec)


class ImputeBody(SamplingBody):
    """Complete the missing part of one instance, n times: image or x with a mask, or a text with hole characters.

    Of a table, complete the missing cells of one or several rows, n times each.
    """

    image: Picture | None = None
    x: Nested | None = None
    mask: str | list[Any] | None = Field(
        default=None, description="Picture that is white where values are missing, or nested lists with 1 there."
    )
    resize: bool = Field(default=False, description="Scale pictures of another size.")
    text: str | None = Field(default=None, max_length=2**20)
    hole: str = Field(default="_", min_length=1, max_length=1)
    rows: Rows | None = Field(default=None, description=f"Rows of a table: {ONE_ROW}")
    csv: Csv | None = Field(default=None, description=CSV)

    @model_validator(mode="after")
    def _one_instance(self) -> Self:
        one_of(self, ("image", "x", "text", "rows", "csv"))
        if (self.mask is None) == (self.image is not None or self.x is not None):
            raise ValueError(
                "give a mask with image or x; in a text, hole characters mark missing ones, in a row null does"
            )
        return self

    @property
    def count(self) -> int:
        """Return the number of rows of a table; 0 for the one instance of other data."""
        return len(self.rows or ())

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the job; the statistics of missing cells are JSON."""
        summarised = self.format == "json" and (self.rows is not None or self.csv is not None)
        return {**super().job_fields(), "statistics": summarised}

    def table_rows(self, card: ModelCard) -> GivenRows | None:
        """Return the rows. Raise InstanceError, also if no value is missing."""
        rows = inputs.from_rows(self.rows, self.csv, card.spec, most=MAX_ITEMS)
        if rows is not None and rows.known.all():
            raise InstanceError("csv" if self.rows is None else "rows", "nothing is missing; set a value to null")
        return rows

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return x and mask (True where known), (1, *shape) each."""
        if self.text is not None:
            x, known = inputs.from_masked_text(self.text, self.hole, card.spec)
            return {"x": x, "mask": known}
        assert self.mask is not None
        images = None if self.image is None else [self.image]
        x = instances(card, pixels, images=images, x=self.x, field="image", resize=self.resize, many=False)
        return {"x": x, "mask": inputs.from_mask(self.mask, card.spec, pixels=pixels, resize=self.resize)}


class InstancesBody(RequestBody):
    """Instances as pictures, nested lists, texts or rows of a table."""

    images: Annotated[list[Picture], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)] | None = None
    x: Nested | None = None
    texts: Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)] | None = Field(
        default=None, description="Texts, each of as many characters as the model's texts have."
    )
    resize: bool = Field(default=False, description="Scale pictures of another size.")
    rows: Rows | None = Field(default=None, description=f"Rows of a table: {ONE_ROW}")
    csv: Csv | None = Field(default=None, description=CSV)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        one_of(self, ("images", "x", "texts", "rows", "csv"))
        return self

    @property
    def count(self) -> int:
        """Return the number of instances; the rows of CSV are counted when they are parsed."""
        return len(self.images or self.x or self.texts or self.rows or ())

    def table_rows(self, card: ModelCard) -> GivenRows | None:
        """Return the rows. Raise InstanceError."""
        return inputs.from_rows(self.rows, self.csv, card.spec, most=MAX_ITEMS)

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return the instances x (N, *shape)."""
        if self.texts is not None:
            return {"x": inputs.from_texts(self.texts, card.spec, "texts")}
        return {"x": instances(card, pixels, images=self.images, x=self.x, field="images", resize=self.resize)}


class ScoreBody(InstancesBody):
    """Measure the likelihood of instances in bits/dim; of rows of a table also in bits of each row and cell."""

    format: Scores = "json"
    effort: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Accuracy of the estimate; the unit depends on the kind of likelihood.",
    )

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the job, with the effort."""
        return {**super().job_fields(), "effort": self.effort}

    def table_rows(self, card: ModelCard) -> GivenRows | None:
        """Return the rows. Raise InstanceError, also for CSV that has a column of the response already."""
        rows = super().table_rows(card)
        if rows is not None and self.format == "csv":
            tables.check_score_names(rows, card.spec, "csv")
        return rows


class EncodeBody(InstancesBody):
    """Encode instances: mean and log-variance of their latent variables."""

    format: Numbers = "json"


class ReconstructBody(InstancesBody):
    """Encode instances and decode them again."""

    format: Samples = "json"


class DecodeBody(RequestBody):
    """Decode latent vectors to samples."""

    format: Samples = "json"
    z: Latents

    @property
    def count(self) -> int:
        """Return the number of latent vectors."""
        return len(self.z)

    def arrays(self, card: ModelCard, pixels: int) -> Mapping[str, Any]:
        """Return the latent vectors z (N, Z)."""
        return {"z": inputs.from_latents(self.z, card.latent_dim)}
