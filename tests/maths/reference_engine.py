"""A minimal engine: applies the rows of a table with an exact denoiser."""

from collections.abc import Callable

import torch
from torch import Tensor

from gen_ray.maths.tables import Column, apply, spread

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]


def run_table(table: Tensor, x: Tensor, denoise: Denoise, generator: torch.Generator | None = None) -> Tensor:
    """Return x (…,) after all rows of the table; denoise(x, alpha, sigma) is E[x_0 | x_t]."""
    x_0_prev = None
    for row in table:
        x_0 = denoise(x, row[Column.alpha], row[Column.sigma])
        z = torch.randn(x.shape, dtype=x.dtype, generator=generator) if row[Column.s] > 0 else None
        x = apply(spread(row.expand(len(x), -1), x), x, x_0, x_0_prev, z)
        x_0_prev = x_0
    return x
