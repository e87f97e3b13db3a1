"""The source ``digits``: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which need no download."""

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from gen_ray.datasets.rows import BadRow, Batch
from gen_ray.datasets.source import DataSource
from gen_ray.dataspec import DataSpec


class Digits(DataSource):
    """Images (1, 8, 8) of 17 grey levels with labels 0-9."""

    name = "digits"

    def signature(self) -> list[list[object]]:
        """Return the version of the package that contains the data."""
        return [["scikit-learn", version("scikit-learn")]]

    def spec(self) -> DataSpec:
        """Return the constant description of the data."""
        classes = tuple("0123456789")
        return DataSpec(name=self.name, kind="image", shape=(1, 8, 8), levels=17, classes=classes)

    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield the whole set at once: 115 kB."""
        from sklearn.datasets import load_digits  # a slow import

        digits = load_digits()
        x = digits.images.astype(np.uint8)[:, None]
        yield Batch(x=x, keys=[str(i) for i in range(len(x))], labels=digits.target)
