"""Distinct values of a column with their counts: all of them up to a limit, and above it those of a sample of rows.

The sample holds the rows with the smallest hashes (bottom-k; Cohen & Kaplan 2007). It is a function of the set of rows:
neither the order of the rows, nor their blocks, nor the way in which parts were merged changes it. Sketches of
quantiles such as KLL are random or depend on the order, so that the same data would get other codes when they are
prepared again. The rank of a quantile has a standard error of at most 0.5 / sqrt(k), 0.2 % for k = 65,536, and every
retained value is an observed one.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BYTES_PER_VALUE = 64
"""Mean number of bytes of a retained text; longer texts reduce the number of retained values."""


@dataclass
class Retained:
    """Values (n,) with weights (n,): the number of rows with the value, or of rows of the sample."""

    values: pa.Array
    weights: np.ndarray
    exact: bool

    @property
    def total(self) -> int:
        """Return the sum of the weights."""
        return int(self.weights.sum())


@dataclass
class DistinctValues:
    """All distinct values with the number of their rows, until there are more than limit (or texts are too long)."""

    limit: int
    exceeded: bool = False
    _values: list[pa.Array] = field(default_factory=list)
    _counts: list[np.ndarray] = field(default_factory=list)
    _pending: int = 0

    def add(self, values: pa.Array, counts: np.ndarray) -> None:
        """Add values (n,), not null, that occur counts (n,) times."""
        if self.exceeded or not len(values):
            return
        self._values.append(values)
        self._counts.append(counts)
        self._pending += len(values)
        if self._pending > 2 * self.limit:
            self.compact()

    def merge(self, other: "DistinctValues") -> None:
        """Add the values of another part of the rows."""
        for values, counts in zip(other._values, other._counts, strict=True):
            self.add(values, counts)
        self.exceeded |= other.exceeded
        self.compact()

    def compact(self) -> None:
        """Add up the counts of equal values, and drop all values if there are too many."""
        if self._values and not self.exceeded:
            values, counts = grouped(self._values, self._counts)
            self._values, self._counts, self._pending = [values], [counts], len(values)
            self.exceeded = len(values) > self.limit or values.nbytes > self.limit * BYTES_PER_VALUE
        if self.exceeded:
            self._values, self._counts, self._pending = [], [], 0

    def retained(self) -> Retained | None:
        """Return the values, or None if there were too many."""
        self.compact()
        if self.exceeded or not self._values:
            return None
        return Retained(self._values[0], self._counts[0], exact=True)


@dataclass
class RowSample:
    """The values of the k rows with the smallest hashes; fewer if texts are long."""

    k: int
    threshold: int = 2**64 - 1
    """The rows of the sample have smaller hashes, or this one."""
    _values: list[pa.Array] = field(default_factory=list)
    _hashes: list[np.ndarray] = field(default_factory=list)
    _pending: int = 0

    def add(self, values: pa.Array, hashes: np.ndarray) -> None:
        """Add the values (n,), not null, of rows with hashes (n,) uint64 up to ``threshold``."""
        if not len(values):
            return
        self._values.append(values)
        self._hashes.append(hashes)
        self._pending += len(values)
        if self._pending > 2 * self.k:
            self.compact()

    def merge(self, other: "RowSample") -> None:
        """Add the rows of the sample of another part of the rows."""
        self.threshold = min(self.threshold, other.threshold)
        for values, hashes in zip(other._values, other._hashes, strict=True):
            self.add(values, hashes)
        self.compact()

    def compact(self) -> None:
        """Drop all rows but those of the sample."""
        if not self._values:
            return
        values, hashes = pa.concat_arrays(self._values), np.concatenate(self._hashes)
        order = np.argsort(hashes)[: self.k]
        order = order[hashes[order] <= np.uint64(self.threshold)]
        values, hashes = values.take(pa.array(order)), hashes[order]
        if pa.types.is_string(values.type):
            length = pc.binary_length(values).to_numpy()
            fits = int(np.searchsorted(np.cumsum(length), self.k * BYTES_PER_VALUE, side="right"))
            if fits < len(values):
                values, hashes = values.slice(0, fits), hashes[:fits]
                self.threshold = int(hashes[-1]) if fits else 0
        if len(values) == self.k:
            self.threshold = int(hashes[-1])
        self._values, self._hashes, self._pending = [pa.concat_arrays([values])], [hashes], len(values)

    def retained(self) -> Retained:
        """Return the distinct values of the sample."""
        self.compact()
        values, weights = grouped(self._values, [np.ones(len(part), np.int64) for part in self._values])
        return Retained(values, weights, exact=False)


def grouped(values: list[pa.Array], counts: list[np.ndarray]) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct values of arrays, in ascending order, and the sums of their counts."""
    table = pa.table({"value": pa.chunked_array(values), "count": np.concatenate(counts)})
    sums = table.group_by("value", use_threads=False).aggregate([("count", "sum")]).sort_by("value").combine_chunks()
    return sums["value"].chunk(0), sums["count_sum"].to_numpy()
