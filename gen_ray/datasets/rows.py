"""Batches of rows from sources, the assignment of rows to splits, and the treatment of bad rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, Self, get_args

import numpy as np

from gen_ray.errors import UserError, argument
from gen_ray.tabular.row_hashes import SPLIT, row_hashes

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN = SPLITS.index("train")
SHARES: Mapping[Split, float] = {"validation": 0.1, "test": 0.1}
"""Shares of rows of a data set without official splits. The rest is the training split."""


@dataclass(frozen=True)
class RowNumbers:
    """The identities of rows of a file: its name, and their numbers (n,)."""

    file: str
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def uniform(self) -> np.ndarray:
        """Return a pseudorandom number in [0, 1) for each row, (n,) float64."""
        return row_hashes(self.file, self.numbers, SPLIT) / 2.0**64


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of rows: x (n, *shape) integers, their identities (n), labels (n,), and their official split.

    An identity is the origin of a row (a path, an index) and does not depend on its content. ``provided`` are the
    splits of the publisher; the other splits are taken from the official training rows.
    """

    x: np.ndarray
    keys: Sequence[str] | RowNumbers
    labels: np.ndarray | None = None
    official: Split | None = None
    provided: frozenset[Split] = frozenset({"train", "test"})


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """Unusable rows: the file, the number of the first one (None: the file is one row), their number, the reason."""

    file: str
    reason: str
    row: int | None = None
    rows: int = 1

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{place}: {self.reason}"


@dataclass(frozen=True)
class BadRows:
    """The policy for bad rows: the number that may be skipped; 0 stops at the first bad row."""

    limit: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the policy of a text ``stop`` or ``skip:K``. Raise UserError for other texts."""
        match = re.fullmatch(r"stop|skip:(\d{1,9})", text)
        if not match:
            raise UserError(
                "write stop, or skip:K to leave out at most K bad rows", field="on_bad_row", value=repr(text)
            )
        return cls(int(match[1] or 0))


STOP = BadRows()


def skip_option(number: object) -> str:
    """Return the option and the configuration key that let a number of bad rows be skipped."""
    return (
        f"{argument('on_bad_row', f'skip:{number}')} of gen-ray prepare, or data.on_bad_row=skip:{number} in a training"
    )


@dataclass
class Quarantine:
    """The bad rows found so far, at most as many as the policy allows."""

    policy: BadRows
    found: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(bad.rows for bad in self.found)

    def add(self, bad: BadRow) -> None:
        """Add a bad row. Raise UserError with the row if the policy does not allow it."""
        self.found.append(bad)
        if len(self) <= self.policy.limit:
            return
        if self.policy == STOP:
            raise UserError(f"{bad} (correct or remove it, or leave such rows out: {skip_option('K')})")
        raise UserError(
            f"{bad} (bad row {len(self)}, but at most {self.policy.limit} may be left out; more: {skip_option('K')})"
        )

    def text(self) -> str:
        """Return the bad rows as JSON objects, one on each line."""
        return "".join(json.dumps(vars(bad)) + "\n" for bad in self.found)


def split_indices(batch: Batch) -> np.ndarray:
    """Return the index into SPLITS of every row, shape (n,).

    Without official splits the shares are 80 / 10 / 10 %. With them, each missing split gets 1/12 of the official
    training rows. The split depends only on a row's identity, so that it does not change if other rows are added or
    removed.
    """
    if batch.official in ("validation", "test"):
        return np.full(len(batch.keys), SPLITS.index(batch.official))
    u = batch.keys.uniform() if isinstance(batch.keys, RowNumbers) else _uniform(batch.keys)
    share = {split: 1 / 12 if split not in batch.provided else 0.0 for split in SPLITS} if batch.official else SHARES
    test, validation = share["test"], share["test"] + share["validation"]
    return np.select([u < test, u < validation], [SPLITS.index("test"), SPLITS.index("validation")], 0)


def _uniform(keys: Sequence[str]) -> np.ndarray:
    """Return a pseudorandom number in [0, 1) for each key, (n,) float64."""
    digests = (blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), dtype=">u8") / 2.0**64
