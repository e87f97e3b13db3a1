"""The numbers of training values of each code, counted while a table is written."""

import numpy as np

from gen_ray.dataspec import DataSpec


class CodeCounts:
    """Counters of the codes of a table's columns; nothing for other data."""

    def __init__(self, spec: DataSpec) -> None:
        """Start at 0 for the columns of a spec."""
        self._counts = [np.zeros(column.cardinality, np.int64) for column in spec.columns]

    def add(self, x: np.ndarray) -> None:
        """Count the codes of rows x (n, D); missing values are not counted."""
        for d, counts in enumerate(self._counts):
            counts += np.bincount(x[:, d] + 1, minlength=len(counts) + 1)[1:]

    def in_spec(self, spec: DataSpec) -> DataSpec:
        """Return the spec with the counts in its columns."""
        pairs = zip(spec.columns, self._counts, strict=True)
        return spec.model_copy(
            update={"columns": tuple(c.model_copy(update={"counts": tuple(n.tolist())}) for c, n in pairs)}
        )
