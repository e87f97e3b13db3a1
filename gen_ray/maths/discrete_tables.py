"""The samplers of categorical diffusion as tables, float64, with one row per network evaluation.

Absorbing chains are described by *hitting levels*: position i has a level u_i ~ U(0, 1) and is masked at time t iff
u_i >= alpha_bar_t. Revealing all positions with u_i < alpha_bar_s is ancestral sampling (D3PM). Revealing the smallest
u_i, one at a time, is the first-hitting sampler (Zheng et al. 2025, arXiv 2409.02908), which has the law of the
continuous-time chain. Its event times need not be computed, because the net's input is the masked share, not the time.

All functions raise UserError for steps out of range.
"""

from enum import IntEnum

import torch
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.maths.tables import respace

DEFAULT_SHARE = 1 / 16
"""The share of positions that a corrector redraws at once (at least one): a larger share mixes faster, less exactly."""


class Unmask(IntEnum):
    """Columns of an unmasking table (N, 6), which select the masked positions that a row reveals.

    A row reveals the positions with u_i < survival and, of n masked positions, the ceil(share·n) with the highest score
    noise·g_i + confidence·ln p(x_i) − level·u_i − place·i, where g_i is a new Gumbel variable in every row.
    """

    survival = 0
    share = 1
    level = 2
    noise = 3
    confidence = 4
    place = 5


class Resample(IntEnum):
    """Columns of a resampling table (N, 4): x_s ~ p(x_s|x_t) (categorical.Corruption.reverse) at some positions.

    t is the net's time, a the survival from s to t (0 ignores the position's symbol, which at s = t is a Gibbs step),
    alpha_bar_s the survival at the row's end, share the fraction of all positions that is resampled, chosen at random.
    """

    t = 0
    a = 1
    alpha_bar_s = 2
    share = 3


def first_hitting(D: int, steps: int) -> Tensor:
    """Return the table (steps, 6) that reveals D positions in random order; steps <= D, exact for steps = D."""
    return _revealing(D, steps, level=1.0)


def in_order(D: int, steps: int = 1) -> Tensor:
    """Return the table (D, 6) that reveals one position per row, from the first to the last; steps must be 1."""
    if steps != 1:
        raise UserError(f"steps: order takes one pass of {D} evaluations, one per position (leave steps out)")
    return _revealing(D, D, place=1.0)


def confident(D: int, steps: int, temperature: float = 0.0) -> Tensor:
    """Return the table (steps, 6) that reveals where the drawn symbols are most probable (Chang et al. 2022, MaskGIT).

    New Gumbel noise is added to ln p at each step, multiplied by temperature times the masked share. The samples do not
    follow the model's distribution.
    """
    table = _revealing(D, steps, confidence=1.0)
    table[:, Unmask.noise] = temperature * torch.arange(steps - 1, -1, -1, dtype=torch.float64) / steps
    return table


def ancestral_unmasking(alpha_bar: Tensor, steps: int) -> Tensor:
    """Return D3PM's ancestral sampler (steps, 6) of an absorbing chain alpha_bar (T+1,), on ``steps`` of its T."""
    k = respace(len(alpha_bar) - 1, steps)
    return _columns(steps, Unmask, survival=alpha_bar[k[1:]])


def ancestral_resampling(alpha_bar: Tensor, steps: int) -> Tensor:
    """Return D3PM's ancestral sampler (steps, 4) of a uniform chain alpha_bar (T+1,), on ``steps`` of its T."""
    k = respace(len(alpha_bar) - 1, steps)
    t, s = k[:-1], k[1:]
    a = alpha_bar[t] / alpha_bar[s]
    return _columns(steps, Resample, t=t / (len(alpha_bar) - 1), a=a, alpha_bar_s=alpha_bar[s], share=1.0)


def gibbs_resampling(alpha_bar: Tensor, steps: int, share: float = DEFAULT_SHARE) -> Tensor:
    """Return ancestral steps, each after a corrector (2·steps, 4), of a uniform chain alpha_bar (T+1,).

    The corrector redraws ``share`` of the positions, at least one, from p(x_t at the position | x_t elsewhere), which
    D3PM's parametrisation has in closed form (compare Zhao et al. 2024, arXiv 2407.21243). Redrawing one position at a
    time leaves p(x_t) invariant; redrawing several at once does so approximately.
    """
    predictor = ancestral_resampling(alpha_bar, steps)
    corrector = predictor.clone()
    corrector[:, Resample.a] = 0.0
    corrector[:, Resample.alpha_bar_s] = alpha_bar[respace(len(alpha_bar) - 1, steps)[:-1]]
    corrector[:, Resample.share] = share
    return torch.stack([corrector, predictor], dim=1).flatten(0, 1)


def _revealing(D: int, steps: int, **scores: float) -> Tensor:
    left = respace(D, steps).double()
    return _columns(steps, Unmask, share=1 - left[1:] / left[:-1], **scores)


def _columns(rows: int, names: type[IntEnum], **columns: Tensor | float) -> Tensor:
    """Return a table (rows, len(names)) with the given columns; the others are zero."""
    table = torch.zeros(rows, len(names), dtype=torch.float64)
    for name, column in columns.items():
        table[:, names[name]] = torch.as_tensor(column, dtype=torch.float64)
    return table
