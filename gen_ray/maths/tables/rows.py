"""A row of a sampler's table, and the update it stands for."""

from enum import IntEnum

import torch
from torch import Tensor


class Column(IntEnum):
    """The columns of a Gaussian table (N, 8), float64.

    With x̂0 the data prediction at this row's time and x̂0⁻ the one of the row before, the row's update is
    x ← a·x + b·x̂0 + c·x̂0⁻ + s·exp(r·v)·z, z ~ N(0, I), where v in [0, 1] is the network's say on the variance.
    """

    t = 0  # network time k/T
    alpha = 1  # the marginal at this time, to turn the network's output into x̂0
    sigma = 2
    a = 3
    b = 4
    c = 5
    s = 6  # standard deviation of the fresh noise, the smallest one where it is learned
    r = 7  # ln of the largest over the smallest; 0 where it is not learned


def assemble(
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor | float,
    s: Tensor | float,
    r: Tensor | float = 0.0,
) -> Tensor:
    """Return the table (N, 8), float64, of columns (N,); a number fills its column."""
    columns = (torch.as_tensor(column, dtype=torch.float64) for column in (t, alpha, sigma, a, b, c, s, r))
    return torch.stack(torch.broadcast_tensors(*columns), dim=1)


def apply(
    row: Tensor, x: Tensor, x_0: Tensor, x_0_prev: Tensor | None, z: Tensor | None, v: Tensor | None = None
) -> Tensor:
    """Return the next x (B, *shape), in the dtype of x, as a new tensor.

    row is (B, 8), each row of the batch at its own place in its own table; x_0, x_0_prev, z and v have the shape of x.
    x_0_prev may be None where all c are 0, z where all s are 0, v where all r are 0.
    """
    row = row.to(x.dtype).view(*row.shape, *[1] * (x.ndim - 1))
    out = row[:, Column.a] * x
    out.addcmul_(row[:, Column.b], x_0)
    if x_0_prev is not None:
        out.addcmul_(row[:, Column.c], x_0_prev)
    if z is not None:
        scale = row[:, Column.s]
        out.addcmul_(scale if v is None else scale * torch.exp(row[:, Column.r] * v), z)
    return out
