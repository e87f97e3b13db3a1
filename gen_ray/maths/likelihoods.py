"""Log-probabilities and divergences, in nats and elementwise: sum_dims turns them into one number per example.

The discretised functions give an integer u in {0 … levels-1} the mass of a density in the bin of width 2/(levels-1)
around x = 2·u/(levels-1) - 1; the two edge bins include the tails, so the masses sum to one. ``levels`` is a number, or
one for each scalar (levels.py).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gen_ray.maths.levels import Levels, scaled, spacing

_LOG_2_PI = math.log(2 * math.pi)
_LOG_SCALE_LIMIT = 20.0  # a scale of e^-20 is already 10^4 times narrower than the narrowest bin


def sum_dims(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the sum (B,) of x (B, …) over all axes except the first; with a mask (B, …), over its True scalars."""
    x = x if mask is None else x.masked_fill(~mask, 0.0)
    return x.reshape(x.shape[0], math.prod(x.shape[1:])).sum(1)


def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """Return KL(N(mean1, e^log_var1) || N(mean2, e^log_var2)), elementwise nats; the arguments broadcast."""
    log_ratio = log_var1 - log_var2
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + (mean1 - mean2).square() * torch.exp(-log_var2))


def standard_normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, e^log_var) || N(0, 1)), elementwise nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (torch.expm1(log_var) - log_var + mean.square())


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Return x·ln p + (1-x)·ln(1-p), p = sigmoid(logits), elementwise nats; a log-likelihood only for x in {0, 1}."""
    return x * logits - F.softplus(logits)


def categorical_log_prob(u: Tensor, logits: Tensor, dim: int = -1) -> Tensor:
    """Return ln softmax(logits)[u], the shape of u (int64); logits have an additional axis ``dim`` of size K."""
    return logits.log_softmax(dim).gather(dim, u.unsqueeze(dim)).squeeze(dim)


def discretised_logistic_log_prob(u: Tensor, mean: Tensor, log_scale: Tensor, levels: Levels) -> Tensor:
    """Return ln of the mass of a logistic in the bin of u, elementwise nats, the dtype of mean.

    Finite, with finite gradients, at any mean and scale (Salimans et al. 2017, PixelCNN++, eq. 2). The paper
    approximates the difference of sigmoids where it underflows. Here it is an exact product without cancellation,
    s(p) - s(m) = s(p)·s(-m)·(1 - e^(m-p)), so that float32 suffices for this training loss.
    log_scale is clamped to [-20, 20].
    """
    c, d, log_d = _bin(u, mean, log_scale, levels)
    first, last = u == 0, _is_last(u, levels)
    below = torch.where(last, 0.0, _log_sigmoid(c + d / 2))
    above = torch.where(first, 0.0, _log_sigmoid(d / 2 - c))
    return (below + above + torch.where(first | last, 0.0, _log_mean_exp(d) + log_d)).to(mean.dtype)


def discretised_gaussian_log_prob(u: Tensor, mean: Tensor, log_sigma: Tensor, levels: Levels) -> Tensor:
    """Return ln of the mass of N(mean, e^(2·log_sigma)) in the bin of u, elementwise nats, the dtype of mean.

    Finite, with finite gradients, at any mean and sigma (Ho et al. 2020, eq. 13). log_sigma is clamped to [-20, 20].
    """
    c, d, log_d = _bin(u, mean.double(), log_sigma.double(), levels)  # in float32 neighbouring edges would cancel
    # The mass of [c - d/2, c + d/2] is that of its mirror image in the lower tail, where log_ndtr is accurate.
    upper, lower = (_log_ndtr(edge - c.abs()) for edge in (d / 2, -d / 2))
    gap = (upper - lower).clamp(min=1e-4)  # only a narrow bin has a smaller gap; it is handled below
    wide = upper + torch.log(-torch.expm1(-gap))
    # A narrow bin: phi(c) times the integral of e^(-c·y) over it, 2·sinh(c·d/2)/c. The rest is below d²/8 = 1e-7.
    z = c.abs() * d
    narrow = -(c.square() + _LOG_2_PI) / 2 + log_d + z / 2 + _log_mean_exp(z)
    inside = torch.where(d < 1e-3, narrow, wide)
    inside = torch.where(u == 0, _log_ndtr(c + d / 2), inside)
    return torch.where(_is_last(u, levels), _log_ndtr(d / 2 - c), inside).to(mean.dtype)


class _Bin(NamedTuple):
    """A bin in units of the scale: its centre, its width and ln of its width."""

    centre: Tensor
    width: Tensor
    log_width: Tensor


def _bin(u: Tensor, mean: Tensor, log_scale: Tensor, levels: Levels) -> _Bin:
    """Return the bin of u relative to mean and scale, the dtype of mean."""
    log_scale = log_scale.clamp(-_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT)
    precision, bin_width = torch.exp(-log_scale), spacing(levels, mean)
    log_width = bin_width.log() if isinstance(bin_width, Tensor) else math.log(bin_width)
    x = scaled(u, levels, mean.dtype)
    return _Bin((x - mean) * precision, bin_width * precision, log_width - log_scale)


def _is_last(u: Tensor, levels: Levels) -> Tensor:
    """Return a mask of the shape of u, True at the last level."""
    last: Tensor = u == (levels.to(u.device) - 1 if isinstance(levels, Tensor) else levels - 1)
    return last


def _log_mean_exp(d: Tensor) -> Tensor:
    """Return ln((1 - e^-d)/d) for d >= 0, the log of the mean of e^-y over [0, d], without cancellation at small d.

    Below d = 1/4 it is the series of ln(sinh(d/2)/(d/2)) - d/2, whose first omitted term is at most d⁶/181440 = 1e-9.
    """
    near, far = d.clamp(max=0.25), d.clamp(min=0.25)
    series = near.square() * (1 / 24 - near.square() / 2880) - near / 2
    return torch.where(d < 0.25, series, torch.log(1 - torch.exp(-far)) - far.log())


def _log_sigmoid(x: Tensor) -> Tensor:
    """Return ln sigmoid(x) to an absolute error of one rounding of 1, on a CPU 3 times as fast as logsigmoid."""
    return x.clamp(max=0) - torch.log(1 + torch.exp(-x.abs()))


def _log_ndtr(x: Tensor) -> Tensor:
    """Return ln of the normal CDF at x, float64. torch's log_ndtr has wrong gradients, then NaN, below x = -10^6."""
    near, far = x.clamp(min=-1e3), x.clamp(max=-1e3)
    tail = -(far.square() + _LOG_2_PI) / 2 - torch.log(-far) - far.pow(-2)  # Laplace's series, to 3/x⁴
    return torch.where(x < -1e3, tail, torch.special.log_ndtr(near))
