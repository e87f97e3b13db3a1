"""The statistics of a column that one pass over the rows collects: its possible types, and its distinct values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.tabular.retained import DistinctValues, Retained, RowSample
from gen_ray.tabular.texts import (
    Reader,
    is_text,
    natural_type,
    read_booleans,
    read_integers,
    read_numbers,
    read_times,
    trimmed,
    without_markers,
)

RETAINED_IN_ALL, MOST_RETAINED, LEAST_RETAINED = 2**21, 2**16, 2**10
"""Limits of the retained values: of all columns together, and of a column."""
FEW_REPEATS = 0.5
"""Share of different values in a block of rows above which texts are not put into dictionaries."""

READERS: Mapping[str, Reader] = {
    "boolean": read_booleans,
    "integer": read_integers,
    "number": read_numbers,
    "date": partial(read_times, kind=pa.date32()),
    "time": partial(read_times, kind=pa.timestamp("us")),
    "time with zone": partial(read_times, kind=pa.timestamp("us", "UTC")),
}
"""The types of texts, the narrowest first, with a function that raises ArrowInvalid for texts of other types."""
IMPLIED = {"integer": "number", "date": "time"}
"""Types of which each text is also one of another type."""


def retained_per_column(columns: int) -> int:
    """Return the largest number of values that are retained of each column."""
    return int(np.clip(RETAINED_IN_ALL // max(1, columns), LEAST_RETAINED, MOST_RETAINED))


@dataclass
class ColumnStatistics:
    """Statistics of a column: all of it for the types, the training rows for the values.

    ``types`` are those that all texts have so far. ``infinite`` is True if there are infinite numbers.
    """

    missing: Sequence[str]
    limit: int
    rows: int = 0
    known: int = 0
    types: tuple[str, ...] = tuple(READERS)
    infinite: bool = False
    not_a_number: str = ""
    """The first text that is not a number."""
    arrow_type: pa.DataType | None = None
    distinct: DistinctValues = field(init=False)
    sample: RowSample = field(init=False)
    _repeats: bool = True

    def __post_init__(self) -> None:
        self.distinct, self.sample = DistinctValues(self.limit), RowSample(self.limit)

    def add(self, cells: pa.Array, training: np.ndarray, hashes: np.ndarray) -> None:
        """Add the cells (n,) of a block, where training (n,) marks the training rows, with hashes (n,) uint64."""
        if pa.types.is_null(cells.type):
            self.rows += int(training.sum())
            return
        if pa.types.is_dictionary(cells.type):
            values, indices = cells.dictionary, cells.indices
        elif is_text(cells.type) and self._repeats:
            encoded = cells.dictionary_encode()
            values, indices = encoded.dictionary, encoded.indices
            self._repeats = len(values) < FEW_REPEATS * len(cells) or len(cells) < 100
        else:
            values, indices = cells, None
        self.arrow_type = values.type
        if not is_text(values.type) and natural_type(values.type) is None:
            return
        values = trimmed(values, self.missing) if is_text(values.type) else without_markers(values, self.missing)
        self._narrow(values.drop_null())
        self._count(values, indices, training, hashes)

    def _narrow(self, values: pa.Array) -> None:
        """Drop the types that not all values have."""
        if not pa.types.is_string(values.type):
            self.infinite |= pa.types.is_floating(values.type) and bool(pc.any(pc.is_inf(values)).as_py())
            return
        kept: list[str] = []
        for name in self.types:
            implied = any(IMPLIED.get(narrower) == name for narrower in kept)
            if implied or self._all_are(values, name):
                kept.append(name)
        if "number" in self.types and "number" not in kept:
            self.not_a_number = first_not_a_number(values)
        self.types = tuple(kept)

    def _all_are(self, texts: pa.Array, name: str) -> bool:
        try:
            values = READERS[name](texts)
        except pa.ArrowInvalid:
            return False
        if name == "number":
            self.infinite |= bool(pc.any(pc.is_inf(values)).as_py())
        return True

    def _count(self, values: pa.Array, indices: pa.Array | None, training: np.ndarray, hashes: np.ndarray) -> None:
        """Add the values of the training rows; indices (n,) refer to the values, unless there is one for each row."""
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        if indices is None:
            places, counts = np.arange(len(values)), training.astype(np.int64)
            mine = training & valid
        else:
            absent = indices.is_null().to_numpy(zero_copy_only=False) if indices.null_count else np.False_
            places = pc.fill_null(indices, 0).to_numpy(zero_copy_only=False)
            counts = np.bincount(places[training & ~absent], minlength=len(values))
            mine = training & ~absent & valid[places] if len(values) else np.zeros(len(places), bool)
        self.rows += int(training.sum())
        self.known += int(mine.sum())
        present = (counts > 0) & valid
        if not self.distinct.exceeded:
            self.distinct.add(values.filter(pa.array(present)), counts[present])
        chosen = np.flatnonzero(mine & (hashes <= np.uint64(self.sample.threshold)))
        self.sample.add(values.take(pa.array(places[chosen])), hashes[chosen])

    def merge(self, other: "ColumnStatistics") -> None:
        """Add the statistics of later rows of the same column."""
        self.rows, self.known = self.rows + other.rows, self.known + other.known
        self.types = tuple(name for name in self.types if name in other.types)
        self.infinite |= other.infinite
        self.not_a_number = self.not_a_number or other.not_a_number
        self.distinct.merge(other.distinct)
        self.sample.merge(other.sample)

    def retained(self) -> Retained | None:
        """Return the distinct known values of the training rows, or those of a sample; None if there are none."""
        if not self.known:
            return None
        return self.distinct.retained() or self.sample.retained()


def first_not_a_number(texts: pa.Array) -> str:
    """Return the first text (n,) that is not a number, or an empty text."""
    for start in range(0, len(texts), 64):
        for text in texts.slice(start, 64):
            try:
                read_numbers(pa.array([text.as_py()]))
            except pa.ArrowInvalid:
                return str(text)
    return ""
