"""A table of three columns whose joint distribution is known, and the perfect net for it."""

import itertools

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.tabular.columns import BooleanColumn, CategoryColumn, IntegerColumn

CARDINALITIES = (4, 2, 3)
K = max(CARDINALITIES)
ROWS = torch.tensor(list(itertools.product(*map(range, CARDINALITIES))))
"""All rows (24, 3)."""
P = (1.2 * torch.randn(len(ROWS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))).softmax(0)
"""Their probabilities (24,)."""


def spec() -> DataSpec:
    counts = [tuple((1000 * marginal(d)).round().int().tolist()) for d in range(3)]
    columns = (
        IntegerColumn(
            name="number",
            arrow_type="int64",
            starts=(0, 1, 2, 5),
            examples=((0,), (1,), (2, 3, 4), (5, 9)),
            means=(0.0, 1.0, 3.0, 7.0),
            counts=counts[0],
        ),
        BooleanColumn(name="truth", arrow_type="bool", counts=counts[1]),
        CategoryColumn(name="letter", arrow_type="string", categories=("a", "b"), rare=("x", "y"), counts=counts[2]),
    )
    return DataSpec(name="joint", kind="table", shape=(3,), levels=K, columns=columns)


def with_missing_letters() -> DataSpec:
    """Return the spec with the same codes, in which the second letter is the category of missing values."""
    *others, letter = spec().columns
    changed = letter.model_copy(update={"categories": ("a",), "missing_as_category": True})
    return spec().model_copy(update={"columns": (*others, changed)})


def marginal(d: int) -> Tensor:
    """Return p(x_d) (K_d,)."""
    return torch.stack([P[ROWS[:, d] == code].sum() for code in range(CARDINALITIES[d])])


def agrees(x: Tensor) -> Tensor:
    """Return which rows agree with x (B, 3) where it is a code, not −1 or a mask: (B, 24)."""
    limits = torch.tensor(CARDINALITIES)
    free = (x < 0) | (x >= limits)
    return ((x[:, None] == ROWS) | free[:, None]).all(-1)


def log_p(x: Tensor) -> Tensor:
    """Return ln p of the known values of x (B, 3), −1 where missing: (B,) float64."""
    return (agrees(x).double() @ P).log()


class PerfectNet(nn.Module):
    """ln p(x_d | unmasked values elsewhere), (B, 3, 4); −inf for codes that a column does not have."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        logits = torch.full((len(x), 3, K), -torch.inf, dtype=torch.float64)
        for d, size in enumerate(CARDINALITIES):
            for code in range(size):
                changed = x.clone()
                changed[:, d] = code
                logits[:, d, code] = log_p(changed)
        return logits
