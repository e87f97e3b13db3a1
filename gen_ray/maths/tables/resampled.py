"""RePaint's resampling (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1, section 4.2) as rows of a table.

A chain that only replaces the known part denoises the rest with little regard to it. RePaint repeats each block of
``jump`` steps ``times`` times; between repetitions the forward process q(x_t | x_r) returns to the start of the block.
"""

import torch
from torch import Tensor

from gen_ray.maths.paths import Process
from gen_ray.maths.tables.rows import Column, positive_int
from gen_ray.maths.tables.samplers import ddim


def repaint(
    process: Process,
    steps: int,
    times: float = 10,
    jump: float = 1,
    eta: float = 1.0,
    spacing: str = "uniform",
) -> Tensor:
    """Return the table (times·steps − times + 1, 12): ``resample`` of ``steps`` DDIM rows of eta."""
    return resample(ddim(process, steps, eta, spacing), times, jump)


def resample(rows: Tensor, times: float, jump: float) -> Tensor:
    """Return the rows (N, 12) of a sampler with every block of ``jump`` rows executed ``times`` times.

    A return needs no evaluation: it is merged into the row before it, x ← m·(row) + sqrt(m²·s² + V)·z with
    q(x_t | x_r) = N(m·x_r, V·I); the known part is redrawn at t. The last row is executed once: it ends at x̂0, a mean
    and not a draw, so repeated returns from it would narrow the distribution of the result. Raise UserError unless
    times and jump are whole numbers above 0.
    """
    again, blocks = positive_int("times", times) - 1, []
    for block in rows[:-1].split(positive_int("jump", jump)):
        back = block.clone()
        if len(block):
            back[-1] = _turned(block[-1], block[0])
        blocks += [back] * again + [block]
    return torch.cat([*blocks, rows[-1:]])


def repaint_low_noise(rows: Tensor, times: float) -> Tensor:
    """Return the rows (N, 12) of a sampler, executed ``times`` times on average: times·N − times + 1 rows.

    Rows with more noise than signal are executed once, because there the noised known part carries little information.
    The rows nearer to the data share the returns, each to the start of the same row (jump 1). The last row is executed
    once, as in ``resample``. Raise UserError unless times is a whole number above 0.
    """
    inner = rows[:-1]
    near = inner[:, Column.alpha] > inner[:, Column.sigma]
    if not near.any():
        return resample(rows, times, 1)
    share, left = divmod((positive_int("times", times) - 1) * len(inner), int(near.sum()))
    again = torch.where(near, share + (near.cumsum(0) <= left).long(), 0).tolist()
    repeated = [part for row, n in zip(inner, again, strict=True) for part in [_turned(row, row)] * n + [row]]
    return torch.stack([*repeated, rows[-1]])


def _turned(row: Tensor, start: Tensor) -> Tensor:
    """Return a row (R,) merged with a return by the forward process to the time at which ``start`` begins."""
    turned, c = row.clone(), Column
    m = start[c.alpha] / row[c.alpha_to]
    variance = start[c.sigma] ** 2 - (m * row[c.sigma_to]) ** 2
    turned[[c.a, c.b]] = m * row[[c.a, c.b]]
    turned[c.s] = ((m * row[c.s]) ** 2 + variance).sqrt()
    turned[c.alpha_to], turned[c.sigma_to] = start[c.alpha], start[c.sigma]
    return turned
