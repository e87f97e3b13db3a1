"""The rows of a sampler's table and the update that they define."""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.paths import Path


class Column(IntEnum):
    """The columns of a Gaussian table (N, 12), float64.

    With x̂0 the data prediction at this row's time and x̂0⁻ that of the previous row, the row's update is
    x ← a·x + b·x̂0 + c·x̂0⁻ + s·exp(r·v)·z, z ~ N(0, I), where v in [-1, 1] is the network's output for the variance.

    If snr > 0 the row is a Langevin step, and a·x + b·x̂0 is the score (see ``langevin``). If rtol > 0 the row is the
    whole probability-flow ODE, for a stepper that has a solver.
    """

    t = 0  # network time
    alpha = 1  # the marginal at this time, for the conversion of the network's output to x̂0
    sigma = 2
    a = 3
    b = 4
    c = 5
    s = 6  # standard deviation of the added noise; if learned, the middle of its range in log space
    r = 7  # ln of the largest standard deviation over the middle one; 0 if not learned
    alpha_to = 8  # the marginal at the row's end, to which a known part is noised; at the data 1 and 0
    sigma_to = 9
    snr = 10  # above 0 only in corrector rows with a step size from norms
    rtol = 11  # above 0 only in an adaptive solver's row


def assemble(
    t: Path,
    to: Path,
    a: Tensor | float,
    b: Tensor | float,
    c: Tensor | float = 0.0,
    s: Tensor | float = 0.0,
    r: Tensor | float = 0.0,
    snr: Tensor | float = 0.0,
    rtol: Tensor | float = 0.0,
) -> Tensor:
    """Return the table (N, 12), float64, of rows from points t to points ``to``; a number fills the whole column."""
    columns = (t.t, t.alpha, t.sigma, a, b, c, s, r, to.alpha, to.sigma, snr, rtol)
    tensors = (torch.as_tensor(column, dtype=torch.float64) for column in columns)
    return torch.stack(torch.broadcast_tensors(*tensors), dim=1)


def spread(rows: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Return the columns of rows (B, R), each (B, 1, …) in the dtype and on the device of x (B, *shape)."""
    return append_dims(rows.to(x.device, x.dtype), x.ndim + 1).unbind(1)


def apply(
    by: Sequence[Tensor], x: Tensor, x_0: Tensor, x_0_prev: Tensor | None, z: Tensor | None, v: Tensor | None = None
) -> Tensor:
    """Return the next x (B, *shape), in the dtype of x, as a new tensor.

    by is the ``spread`` of one table row per row of the batch; x_0, x_0_prev, z and v have the shape of x. x_0_prev may
    be None if all c are 0, z if all s are 0, v if all r are 0.
    """
    out = by[Column.a] * x
    out.addcmul_(by[Column.b], x_0)
    if x_0_prev is not None:
        out.addcmul_(by[Column.c], x_0_prev)
    if z is not None:
        out.addcmul_(by[Column.s] if v is None else by[Column.s] * torch.exp(by[Column.r] * v), z)
    return out


def langevin(by: Sequence[Tensor], x: Tensor, x_0: Tensor) -> list[Tensor]:
    """Return a spread in which Langevin steps x + eps·score + sqrt(2·eps)·z are rewritten as ordinary updates.

    eps = 2·snr²·D/max(‖score‖², 1/sigma²), with norms over the example's D scalars. Song et al. 2021, alg. 4 and 5, use
    batch means, and ‖z‖² instead of its mean, D; with z itself the step would depend on the noise that it adds.
    1/sigma² is the mean square of one scalar's score where noise dominates the data; without this limit a score near 0
    would make the step too long for an example of few scalars. VP's additional factor is in the table: its square root
    is part of snr. Rows with snr = 0 are unchanged.
    """
    score = apply(by, x, x_0, None, None).flatten(1).square().sum(1).view_as(by[0])
    eps = 2 * by[Column.snr] ** 2 * x[0].numel() / torch.maximum(score, by[Column.sigma] ** -2)
    written, corrects = list(by), by[Column.snr] > 0
    for column, value in (
        (Column.a, 1 + eps * by[Column.a]),
        (Column.b, eps * by[Column.b]),
        (Column.s, (2 * eps).sqrt()),
    ):
        written[column] = torch.where(corrects, value, by[column])
    return written


def positive_int(option: str, value: float) -> int:
    """Return an option's value as an integer. Raise UserError unless it is a positive whole number."""
    if value != int(value) or value < 1:
        raise UserError(f"option {option}={value:g} is not a whole number above 0")
    return int(value)
