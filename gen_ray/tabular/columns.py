"""The columns of a table: types, and the conversion between values and codes.

A row is stored as one code per column: code c of column d is in {0 … K_d−1}, or −1 where the value is missing.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError, nearest

MISSING = -1
"""The code of a missing value."""

MARKERS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
"""The texts that mark a missing value, unless a column has others."""


class BaseColumn(Config):
    """The common part of all columns."""

    ordered: ClassVar[bool]
    """Whether neighbouring codes have neighbouring values."""

    type: str
    """The type of the column; a word of configuration files."""
    name: str
    arrow_type: str
    """The type of the values in Parquet files and data frames, as Arrow writes it."""
    counts: tuple[int, ...]
    """The number of training values of each code, (K_d,)."""
    missing: tuple[str, ...] = MARKERS
    """The texts that mark a missing value in files."""

    @property
    def cardinality(self) -> int:
        """Return K_d."""
        return len(self.counts)

    @property
    def type_of_values(self) -> pa.DataType:
        """Return the Arrow type of the values."""
        zoned = re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", self.arrow_type)
        return pa.timestamp(*zoned.groups()) if zoned else pa.type_for_alias(self.arrow_type)

    @property
    def single_valued(self) -> np.ndarray:
        """Return a mask (K_d,) of the codes that stand for only one value."""
        return np.ones(self.cardinality, bool)

    @property
    def values_per_code(self) -> np.ndarray:
        """Return the number (K_d,) of values that ``decode`` selects from for each code."""
        return np.ones(self.cardinality, np.int64)

    @abstractmethod
    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the codes (n,) int32 of values (n,) of the column's Arrow type, −1 where they are null."""

    @abstractmethod
    def decode(self, codes: np.ndarray, u: np.ndarray) -> pa.Array:
        """Return values (n,) of codes (n,), null where they are −1; u (n,) in [0, 1) selects one of a code's values."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Return a text for each code, (K_d,)."""


class OrderedColumn(BaseColumn):
    """A column of numbers or times, divided into consecutive intervals; each frequent value has a separate code.

    A code has an interval of values, its smallest value in ``starts`` (K_d,). The outer intervals are unbounded.
    ``examples`` (K_d,) are observed values of each code, in ascending order and equally probable: they are drawn in
    place of points of the interval, because the density in a wide interval is far from uniform. ``means`` (K_d,) are
    the mean values of each code.
    """

    ordered: ClassVar[bool] = True

    starts: tuple[float, ...]
    examples: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]

    @abstractmethod
    def as_numbers(self, values: pa.Array) -> pa.Array:
        """Return values as float64, or as int64 where the column has whole numbers or times (microseconds)."""

    def as_values(self, numbers: pa.Array) -> pa.Array:
        """Return the inverse of ``as_numbers``."""
        return numbers.cast(self.type_of_values)

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the codes (n,), those of the intervals of the values."""
        numbers = self.as_numbers(values)
        missing = numbers.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        filled = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
        codes = np.searchsorted(self._starts, filled, side="right").astype(np.int32) - 1
        return np.where(missing, np.int32(MISSING), np.maximum(codes, 0))

    def decode(self, codes: np.ndarray, u: np.ndarray) -> pa.Array:
        """Return observed values (n,) of the codes' intervals."""
        flat, first, sizes = self._examples
        safe = np.maximum(codes, 0)
        index = first[safe] + np.minimum((u * sizes[safe]).astype(np.int64), sizes[safe] - 1)
        return self.as_values(pa.array(flat[index], mask=codes == MISSING))

    def number_of(self, codes: np.ndarray) -> np.ndarray:
        """Return the mean values (…,) float64 of codes (…,), NaN where they are −1."""
        return np.where(codes == MISSING, np.nan, np.asarray(self.means)[np.maximum(codes, 0)])

    @property
    def single_valued(self) -> np.ndarray:
        """Return a mask (K_d,) of the codes with one observed value."""
        return np.array([low == high for low, high in self._ends])

    @property
    def values_per_code(self) -> np.ndarray:
        """Return the number (K_d,) of observed values of each code."""
        return self._examples[2]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.asarray(self.starts)

    @cached_property
    def _examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all examples, and the index of the first one and the number of those of each code."""
        sizes = np.array([len(of_code) for of_code in self.examples])
        flat = np.array(list(chain.from_iterable(self.examples)), self._starts.dtype)
        return flat, np.cumsum(sizes) - sizes, sizes

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the smallest and the largest observed value of each code."""
        texts = ([str(value) for value in self.as_values(pa.array(ends)).to_pylist()] for ends in self._ends)
        return tuple(low if low == high else f"{low} … {high}" for low, high in texts)

    @property
    def _ends(self) -> list[tuple[float, float]]:
        return [(of_code[0], of_code[-1]) for of_code in self.examples]


class NumberColumn(OrderedColumn):
    """A column of real numbers."""

    type: Literal["number"] = "number"

    def as_numbers(self, values: pa.Array) -> pa.Array:
        """Return values as float64."""
        return values.cast(pa.float64(), safe=False)


class IntegerColumn(OrderedColumn):
    """A column of whole numbers in the range of int64."""

    type: Literal["integer"] = "integer"
    starts: tuple[int, ...]
    examples: tuple[tuple[int, ...], ...]

    def as_numbers(self, values: pa.Array) -> pa.Array:
        """Return values as int64."""
        return values.cast(pa.int64())


class DatetimeColumn(OrderedColumn):
    """A column of dates or times: microseconds since 1970 in UTC."""

    type: Literal["datetime"] = "datetime"
    format: str | None = None
    """The format of the times in text files, as in strptime; None is ISO 8601."""
    starts: tuple[int, ...]
    examples: tuple[tuple[int, ...], ...]

    def as_numbers(self, values: pa.Array) -> pa.Array:
        """Return values as microseconds since 1970, int64."""
        zone = getattr(self.type_of_values, "tz", None)
        return as_type(values, pa.timestamp("us", zone)).cast(pa.int64())

    def as_values(self, numbers: pa.Array) -> pa.Array:
        """Return times of the column's type."""
        zone = getattr(self.type_of_values, "tz", None)
        return numbers.cast(pa.timestamp("us", zone)).cast(self.type_of_values, safe=False)


class CategoryColumn(BaseColumn):
    """A column of categories. Its last code stands for all rare and unseen values.

    ``categories`` are the others as texts, with codes from 0; ``rare`` are observed values of the last code, equally
    probable. With ``missing_as_category`` the code before the last one stands for missing values, which are therefore
    generated like categories, and never imputed.
    """

    ordered: ClassVar[bool] = False

    type: Literal["category"] = "category"
    categories: tuple[str, ...]
    rare: tuple[str, ...] = ()
    missing_as_category: bool = False

    @property
    def values_per_code(self) -> np.ndarray:
        """Return 1 for each category, and the number of rare values for the last code."""
        return np.array([*(1 for _ in self.categories), max(1, len(self.rare))])

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the codes (n,)."""
        texts = _as_texts(values)
        codes = pc.fill_null(pc.index_in(texts, value_set=self._categories), self.cardinality - 1)
        missing = np.int32(len(self.categories) if self.missing_as_category else MISSING)
        return np.where(
            texts.is_null().to_numpy(zero_copy_only=False), missing, codes.to_numpy(zero_copy_only=False)
        ).astype(np.int32)

    def decode(self, codes: np.ndarray, u: np.ndarray) -> pa.Array:
        """Return the categories (n,); those of the last code are rare values, or else the most frequent category."""
        other = self.rare or self.categories[:1]
        n = len(self.categories)
        indices = np.where(codes == self.cardinality - 1, n + (u * len(other)).astype(np.int64), codes)
        missing = (codes == MISSING) | ((codes == n) & self.missing_as_category)
        texts = pa.array([*self.categories, *other], pa.string())
        return texts.take(pa.array(np.maximum(indices, 0), mask=missing)).cast(self.type_of_values)

    @cached_property
    def _categories(self) -> pa.Array:
        return pa.array(self.categories, pa.string())

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the categories, ``missing`` if it is a category, and ``other``."""
        return (*self.categories, *(["missing"] if self.missing_as_category else []), "other")


class BooleanColumn(BaseColumn):
    """A column of two truth values: code 0 is false, code 1 true."""

    ordered: ClassVar[bool] = False

    type: Literal["boolean"] = "boolean"

    def encode(self, values: pa.Array) -> np.ndarray:
        """Return the codes (n,)."""
        return pc.fill_null(values.cast(pa.bool_()).cast(pa.int32()), MISSING).to_numpy(zero_copy_only=False)

    def decode(self, codes: np.ndarray, u: np.ndarray) -> pa.Array:
        """Return truth values (n,)."""
        return pa.array(codes == 1, mask=codes == MISSING)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return ``false`` and ``true``."""
        return ("false", "true")


Column = Annotated[
    NumberColumn | IntegerColumn | DatetimeColumn | CategoryColumn | BooleanColumn, Field(discriminator="type")
]
"""A column of any type."""


def as_type(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return values as another type. Fractions of a unit of time are dropped; raise ArrowInvalid for other losses."""
    return pc.cast(values, options=pc.CastOptions(kind, allow_time_truncate=True))


def by_name(name: str, columns: Sequence[BaseColumn]) -> BaseColumn:
    """Return a column. Raise UserError naming the nearest one for an unknown name."""
    found = [column for column in columns if column.name == name]
    if not found:
        raise UserError(f"there is no column {name!r}: {nearest(name, [column.name for column in columns])}")
    return found[0]


def _as_texts(values: pa.Array) -> pa.Array:
    """Return values as texts; dictionaries are decoded."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.string())
