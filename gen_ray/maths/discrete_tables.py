"""The samplers of categorical diffusion as tables, float64: one row a network evaluation.

Absorbing chains are told by *hitting levels*: place i has its u_i ~ U(0, 1) and is masked at time t iff
u_i >= alpha_bar_t. To reveal all with u_i < alpha_bar_s is then ancestral sampling (D3PM); to reveal the smallest u_i,
one at a time, is the first-hitting sampler (Zheng et al. 2025, arXiv 2409.02908), which has the law of the
continuous-time chain. Its event times change nothing by themselves: the net is told the masked share, not the time.

All raise UserError for steps out of range.
"""

from enum import IntEnum

import torch
from torch import Tensor

from gen_ray.maths.tables import respace


class Unmask(IntEnum):
    """Columns of an unmasking table (N, 6): which of the masked places a row reveals.

    Those with u_i < survival, and of n masked places the ceil(share·n) first by the falling score
    noise·g_i + confidence·ln p(x_i) − level·u_i − place·i, where g_i is a Gumbel variable drawn afresh at every row.
    """

    survival = 0
    share = 1
    level = 2
    noise = 3
    confidence = 4
    place = 5


class Resample(IntEnum):
    """Columns of a resampling table (N, 4): x_s ~ p(x_s|x_t) (categorical.Corruption.reverse) at some places.

    t is the net's time, a the survival from s to t (0: forget the place's own symbol, which is a Gibbs step at s = t),
    alpha_bar_s the survival at the row's end, share the part of all places that is resampled, chosen at random.
    """

    t = 0
    a = 1
    alpha_bar_s = 2
    share = 3


def first_hitting(D: int, steps: int) -> Tensor:
    """Return the table (steps, 6) that reveals D places in random order; exact for steps = D, the most there are."""
    return _revealing(D, steps, level=1.0)


def in_order(D: int) -> Tensor:
    """Return the table (D, 6) that reveals one place after the other, the first one first."""
    return _revealing(D, D, place=1.0)


def confident(D: int, steps: int, temperature: float) -> Tensor:
    """Return the table (steps, 6) that reveals where the drawn symbols are most probable (Chang et al. 2022, MaskGIT).

    Gumbel noise, fresh at each step, times temperature, which falls to 0 with the masked share, is added to ln p. Not
    a draw from the model.
    """
    table = _revealing(D, steps, confidence=1.0)
    table[:, Unmask.noise] = temperature * torch.arange(steps - 1, -1, -1, dtype=torch.float64) / steps
    return table


def ancestral_unmasking(alpha_bar: Tensor, steps: int) -> Tensor:
    """Return D3PM's own sampler (steps, 6) of an absorbing chain alpha_bar (T+1,), on steps of its T."""
    k = respace(len(alpha_bar) - 1, steps)
    return _columns(steps, Unmask, survival=alpha_bar[k[1:]])


def ancestral_resampling(alpha_bar: Tensor, steps: int) -> Tensor:
    """Return D3PM's own sampler (steps, 4) of a uniform chain alpha_bar (T+1,), on steps of its T."""
    k = respace(len(alpha_bar) - 1, steps)
    t, s = k[:-1], k[1:]
    a = alpha_bar[t] / alpha_bar[s]
    return _columns(steps, Resample, t=t / (len(alpha_bar) - 1), a=a, alpha_bar_s=alpha_bar[s], share=1.0)


def gibbs_resampling(alpha_bar: Tensor, steps: int, share: float) -> Tensor:
    """Return ancestral steps, each after a corrector (2·steps, 4), of a uniform chain alpha_bar (T+1,).

    The corrector redraws ``share`` of the places, at least one, from p(x_t at the place | x_t elsewhere), which D3PM's
    parametrisation has in closed form (compare Zhao et al. 2024, arXiv 2407.21243). One place at a time leaves p(x_t)
    as it is; several at once nearly.
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
    """Return a table (rows, columns of names) of zeros but for the columns given."""
    table = torch.zeros(rows, len(names), dtype=torch.float64)
    for name, column in columns.items():
        table[:, names[name]] = torch.as_tensor(column, dtype=torch.float64)
    return table
