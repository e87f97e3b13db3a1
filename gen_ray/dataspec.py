"""The properties of a data set that a model depends on."""

import math
from typing import Literal

import numpy as np
from pydantic import Field

from gen_ray.configuration.base import Config


class DataSpec(Config):
    """Shape and alphabet of one example; saved next to prepared data and in every artifact.

    An image is stored as integers (C, H, W) in {0 … levels-1}, a text as integers (L,) in {0 … levels-1}.
    """

    name: str
    kind: Literal["image", "tokens"]
    shape: tuple[int, ...]
    levels: int = Field(ge=2, le=65536)
    classes: tuple[str, ...] = ()
    alphabet: str = ""

    @property
    def dims(self) -> int:
        """Return D, the number of scalars in one example."""
        return math.prod(self.shape)

    @property
    def storage_dtype(self) -> np.dtype:
        """Return the type of stored values: uint8 up to 256 levels, else int32."""
        return np.dtype(np.uint8 if self.levels <= 256 else np.int32)

    @property
    def is_image(self) -> bool:
        """Return whether an example is an image (C, H, W)."""
        return self.kind == "image"

    @property
    def is_text(self) -> bool:
        """Return whether an example is text (L,) over an alphabet: tokens without an alphabet cannot be decoded."""
        return self.alphabet != ""
