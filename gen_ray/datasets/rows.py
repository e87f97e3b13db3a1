"""What a source yields, which split a row lands in, and what becomes of a bad one."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, Self, get_args

import numpy as np

from gen_ray.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARES: Mapping[Split, float] = {"validation": 0.1, "test": 0.1}
"""Of the rows of a data set without official splits; the rest is for training."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows: x (n, *shape) integers, their identities (n), labels (n,), and the split their publisher put them in.

    An identity says where a row comes from (a path, an index), never what is in it. ``provided`` are the splits that
    the publisher provides; the others are taken from the official training rows.
    """

    x: np.ndarray
    keys: Sequence[str]
    labels: np.ndarray | None = None
    official: Split | None = None
    provided: frozenset[Split] = frozenset({"train", "test"})


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """Rows that cannot be used: the file, the first such row in it (None: the whole file is one row), how many, why."""

    file: str
    reason: str
    row: int | None = None
    rows: int = 1

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{place}: {self.reason}"


@dataclass(frozen=True)
class BadRows:
    """How many bad rows are set aside before preparing stops; 0 stops at the first."""

    limit: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``stop`` or ``skip:K``. Raise UserError for anything else."""
        match = re.fullmatch(r"stop|skip:(\d{1,9})", text)
        if not match:
            raise UserError(f"--on-bad-row {text!r}: write stop, or skip:K to leave out at most K bad rows")
        return cls(int(match[1] or 0))


STOP = BadRows()


def allowing(number: object) -> str:
    """Return how a command and a configuration say that a number of bad rows may be left out."""
    return f"gen-ray prepare --on-bad-row skip:{number}, or data.on_bad_row=skip:{number} in a training"


@dataclass
class Quarantine:
    """The bad rows met so far, at most as many as the policy allows."""

    policy: BadRows
    found: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(bad.rows for bad in self.found)

    def add(self, bad: BadRow) -> None:
        """Set a bad row aside. Raise UserError that names it if that is one too many."""
        self.found.append(bad)
        if len(self) <= self.policy.limit:
            return
        if self.policy == STOP:
            raise UserError(f"{bad} (correct or remove it, or leave such rows out: {allowing('K')})")
        raise UserError(
            f"{bad} (bad row {len(self)}, but at most {self.policy.limit} may be left out; more: {allowing('K')})"
        )

    def text(self) -> str:
        """Return one JSON object a line."""
        return "".join(json.dumps(vars(bad)) + "\n" for bad in self.found)


def assign(batch: Batch) -> np.ndarray:
    """Return the index into SPLITS of every row, shape (n,).

    Without official splits 80 / 10 / 10 %; with them, 1/12 of the official training rows become each missing split.
    Depends on a row's identity alone, so no row moves when others come or go.
    """
    if batch.official in ("validation", "test"):
        return np.full(len(batch.keys), SPLITS.index(batch.official))
    digests = (blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest() for key in batch.keys)
    # u ~ Uniform[0, 1)
    u = np.frombuffer(b"".join(digests), dtype=">u8") / 2.0**64
    share = {split: 1 / 12 if split not in batch.provided else 0.0 for split in SPLITS} if batch.official else SHARES
    test, validation = share["test"], share["test"] + share["validation"]
    return np.select([u < test, u < validation], [SPLITS.index("test"), SPLITS.index("validation")], 0)
