"""The data that a model is compared with."""

from dataclasses import dataclass

from torch import Tensor

from gen_ray.engine.evaluation.features import Extractor

REFERENCE_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """The data a model is compared with: a seeded choice of two splits' rows, in random order, and an extractor.

    Because of the random order, any prefix of ``train`` or ``test`` is also a random sample of the split.
    """

    train: Tensor
    test: Tensor
    rows_seed: int
    fingerprint: str
    reference_split: str
    """Split that samples are compared with: train or test."""
    extractor: Extractor | None
    source_fingerprint: str = ""
    """Identity of the rows of a table, the same for all intervals; empty if unknown. See ``Prepared``."""

    @property
    def real(self) -> Tensor:
        """Return the examples (N, *shape) that samples are compared with, at most REFERENCE_ROWS."""
        return self.compared(REFERENCE_ROWS)

    def compared(self, most: int) -> Tensor:
        """Return the examples (N, *shape) of the split that samples are compared with, at most ``most``."""
        return {"train": self.train, "test": self.test}[self.reference_split][:most]

    @property
    def held_out(self) -> Tensor:
        """Return examples (N, *shape) of the other split; their distance from ``real`` is that of a perfect model."""
        return {"train": self.test, "test": self.train}[self.reference_split][:REFERENCE_ROWS]
