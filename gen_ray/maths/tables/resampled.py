"""RePaint's resampling (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1, section 4.2) as rows of a table.

A chain that only replaces the known part denoises the rest without regard to it. RePaint goes ``jump`` steps towards
data, lets q(x_t | x_r) take the result back to where it was, and does so ``times`` times before it goes on.
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
    """Return the rows (N, 12) of a sampler with every block of ``jump`` of them walked ``times`` times.

    A U-turn costs no evaluation: it is merged into the row before it, x ← m·(row) + sqrt(m²·s² + V)·z with
    q(x_t | x_r) = N(m·x_r, V·I); the known part is drawn anew at t. The last row is walked once: it ends at x̂0, which
    is a mean and no draw, and to return from there again and again narrows what is found. Raise UserError unless times
    and jump are whole numbers above 0.
    """
    again, blocks = positive_int("times", times) - 1, []
    for block in rows[:-1].split(positive_int("jump", jump)):
        back = block.clone()
        if len(block):
            back[-1] = _turned(block[-1], block[0])
        blocks += [back] * again + [block]
    return torch.cat([*blocks, rows[-1:]])


def repaint_low_noise(rows: Tensor, times: float) -> Tensor:
    """Return the rows (N, 12) of a sampler, walked ``times`` times on average: times·N − times + 1 rows.

    Rows at which noise outweighs the signal are walked once, for there the known part says nothing of what it stands
    for; those nearer to data share the returns, each to where its row began (jump 1). The last row is walked once, as
    in ``resample``. Raise UserError unless times is a whole number above 0.
    """
    inner = rows[:-1]
    near = inner[:, Column.alpha] > inner[:, Column.sigma]
    if not near.any():
        return resample(rows, times, 1)
    share, left = divmod((positive_int("times", times) - 1) * len(inner), int(near.sum()))
    again = torch.where(near, share + (near.cumsum(0) <= left).long(), 0).tolist()
    walked = [part for row, n in zip(inner, again, strict=True) for part in [_turned(row, row)] * n + [row]]
    return torch.stack([*walked, rows[-1]])


def _turned(row: Tensor, start: Tensor) -> Tensor:
    """Return a row (R,) followed by the forward process to where ``start`` begins."""
    turned, c = row.clone(), Column
    m = start[c.alpha] / row[c.alpha_to]
    variance = start[c.sigma] ** 2 - (m * row[c.sigma_to]) ** 2
    turned[[c.a, c.b]] = m * row[[c.a, c.b]]
    turned[c.s] = ((m * row[c.s]) ** 2 + variance).sqrt()
    turned[c.alpha_to], turned[c.sigma_to] = start[c.alpha], start[c.sigma]
    return turned
