"""The tables that scikit-learn contains: small ones, without a download."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gen_ray.datasets.table_source import TableSource
from gen_ray.tabular.delimited import RaggedRow, Rows


class SklearnTable(TableSource):
    """A table of scikit-learn: its features, and the column ``target`` with the classes or the value to predict."""

    name: ClassVar[str]
    target = "target"

    @property
    def where(self) -> str:
        """Return the place of the data in messages."""
        return f"source {self.name}"

    def signature(self) -> list[list[object]]:
        """Return the version of the package that contains the data."""
        return [["scikit-learn", version("scikit-learn")]]

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return self._batch().schema.names

    def blocks(self) -> Iterator[tuple[str, Rows | RaggedRow]]:
        """Yield the whole table at once: at most 0.2 MB."""
        batch = self._batch()
        yield self.name, Rows(np.arange(len(batch)), batch)

    def _batch(self) -> pa.RecordBatch:
        from sklearn import datasets  # a slow import

        data = getattr(datasets, f"load_{self.name}")()
        names = getattr(data, "target_names", None)
        target = data.target if names is None else np.asarray(names)[data.target]
        features = [pa.array(np.ascontiguousarray(column)) for column in data.data.T]
        return pa.record_batch([*features, pa.array(target)], [*map(str, data.feature_names), "target"])


class Wine(SklearnTable):
    """178 wines of 3 cultivars: 13 numbers and a class."""

    name = "wine"


class BreastCancer(SklearnTable):
    """569 tumours: 30 numbers and a class."""

    name = "breast_cancer"


class Iris(SklearnTable):
    """150 flowers of 3 species: 4 numbers and a class."""

    name = "iris"


class Diabetes(SklearnTable):
    """442 patients: 10 numbers, and the progression of the disease a year later."""

    name = "diabetes"
