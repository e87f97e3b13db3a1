"""The properties of a data set that a model depends on."""

import math
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from gen_ray.configuration.base import Config
from gen_ray.tabular.columns import Column

FREQUENT = 100
"""Training values from which on a value of an ordered column is frequent."""


class DataSpec(Config):
    """Shape and alphabet of one example; saved next to prepared data and in every artifact.

    An image is stored as integers (C, H, W) in {0 … levels-1}, a text as integers (L,) in {0 … levels-1}, a row of a
    table as one code (D,) for each of its ``columns``: column d has codes in {0 … K_d-1}, -1 where the value is
    missing, and ``levels`` is the largest K_d. ``target`` is the column that a table is used to predict, if any.
    """

    name: str
    kind: Literal["image", "tokens", "table"]
    shape: tuple[int, ...]
    levels: int = Field(ge=2, le=65536)
    classes: tuple[str, ...] = ()
    alphabet: str = ""
    columns: tuple[Column, ...] = ()
    target: str | None = None

    @property
    def dims(self) -> int:
        """Return D, the number of scalars in one example."""
        return math.prod(self.shape)

    @property
    def storage_dtype(self) -> np.dtype:
        """Return the type of stored values: uint8 up to 256 levels, else int32; for tables int16 or int32."""
        if self.is_table:
            return np.dtype(np.int16 if self.levels < 2**15 else np.int32)
        return np.dtype(np.uint8 if self.levels <= 256 else np.int32)

    @property
    def is_image(self) -> bool:
        """Return whether an example is an image (C, H, W)."""
        return self.kind == "image"

    @property
    def is_text(self) -> bool:
        """Return whether an example is text (L,) over an alphabet: tokens without an alphabet cannot be decoded."""
        return self.alphabet != ""

    @property
    def is_table(self) -> bool:
        """Return whether an example is a row of a table (D,), which may have missing values."""
        return self.kind == "table"

    @cached_property
    def cardinalities(self) -> np.ndarray:
        """Return the number K_d of possible values of each scalar of an example, int64 of its shape."""
        if self.is_table:
            return np.array([column.cardinality for column in self.columns])
        return np.full(self.shape, self.levels)

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Return the relative frequencies (D, K) of the codes of a table's columns in the training data, float64.

        Each code counts half a value more than there are, so that a value that never occurs has a small probability.
        Codes that a column does not have are 0.
        """
        table = np.zeros((len(self.columns), self.levels))
        for row, column in zip(table, self.columns, strict=True):
            row[: column.cardinality] = np.array(column.counts) + 0.5
        return table / table.sum(1, keepdims=True)

    @cached_property
    def positions(self) -> np.ndarray:
        """Return the positions (D, K) of the codes of a table's ordered columns, float64; NaN for all other codes.

        The position of a code is 2·F − 1 in [−1, 1], where F is the middle of the cumulative frequencies of the values
        that the code stands for.
        """
        middles = 2 * (self.frequencies.cumsum(1) - self.frequencies / 2) - 1
        ordered = np.array([column.ordered for column in self.columns])[:, None]
        return np.where(ordered & (self.frequencies > 0), middles, np.nan)

    @cached_property
    def single_values(self) -> np.ndarray:
        """Return a mask (D, K) of the codes of a table that stand for one value, which is frequent or a category."""
        table = np.zeros((len(self.columns), self.levels), bool)
        for row, column in zip(table, self.columns, strict=True):
            row[: column.cardinality] = column.single_valued & (
                (np.array(column.counts) >= FREQUENT) | (not column.ordered)
            )
        return table
