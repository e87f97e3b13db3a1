"""The variational bound for a learned forward process (Kingma et al. 2021, VDM, arXiv 2107.00630), in nats.

With gamma = −ln SNR, alpha² = sigmoid(−gamma) and sigma² = sigmoid(gamma) the bound is prior + reconstruction +
diffusion (eq. 11), the last in continuous time ½·E_t[gamma'(t)·‖eps − eps_hat‖²] (eq. 17-18), and on a grid of T times
(T−1)/2·E_k[expm1(gamma_t − gamma_s)·‖eps − eps_hat‖²] (eq. 13-14).

With v = gamma(t) the continuous term is ½·∫ E‖eps − eps_hat‖² dv, which depends only on the ends of gamma. The interior
of gamma is trained to lower the variance of L, the estimate of this term at a uniform t. It enters the variance through
E_t[L²] = ¼·∫ E‖eps − eps_hat‖⁴·gamma'(t(v)) dv, whose gradient at fixed v is E_t[L²·∇ ln gamma'(t(v))].

Shapes: B batch, then the axes of an example, written (B, …). With a mask (B, …) only scalars where it is True count.
"""

import math

import torch
from torch import Tensor

from gen_ray.maths import likelihoods
from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.levels import Levels, spacing


def marginal(gamma: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at gamma (B,), each (B, 1, …) of ndim axes, float32."""
    gamma = append_dims(gamma, ndim)
    return torch.sigmoid(-gamma).sqrt().float(), torch.sigmoid(gamma).sqrt().float()


def place(alpha: Tensor, sigma: Tensor, low: float, high: float) -> Tensor:
    """Return gamma = 2·ln(sigma/alpha) scaled linearly from [low, high] to [0, 1], the shape of alpha."""
    return (2 * (sigma.log() - alpha.log()) - low) / (high - low)


def prior_nats(x_0: Tensor, last: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return KL(q(x_1|x_0) ‖ N(0, I)), (B,), for gamma(1) = last."""
    alpha, log_var = torch.sigmoid(-last).sqrt().float(), torch.nn.functional.logsigmoid(last).float()
    return likelihoods.sum_dims(likelihoods.standard_normal_kl(alpha * x_0, log_var), mask)


def diffusion_nats(eps: Tensor, eps_hat: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return ½·weight·‖eps − eps_hat‖², (B,), for eps and eps_hat (B, …) and weight (B,)."""
    return 0.5 * weight.float() * likelihoods.sum_dims((eps - eps_hat).square(), mask)


def schedule_variance_loss(nats: Tensor, log_slope: Tensor) -> Tensor:
    """Return a loss (B,) of value zero whose mean has the gradient of ln E_t[L²]: the schedule's variance loss.

    nats (B,) are L, log_slope (B,) is ln gamma' at fixed v.
    """
    squares = nats.detach().double().square()
    loss = squares / squares.mean().clamp(min=torch.finfo(torch.float64).tiny) * log_slope
    return (loss - loss.detach()).float()


def reconstruction_nats(u: Tensor, eps: Tensor, first: Tensor, levels: Levels, mask: Tensor | None = None) -> Tensor:
    """Return −log p(u|z), (B,): the sum of ``reconstruction_cells``."""
    return likelihoods.sum_dims(reconstruction_cells(u, eps, first, levels), mask)


def reconstruction_cells(u: Tensor, eps: Tensor, first: Tensor, levels: Levels) -> Tensor:
    """Return −log p(u|z) of each scalar, (B, …): levels u (B, …), z = alpha·x + sigma·eps ~ q(z|u), gamma(0) = first.

    p(u|z) ∝ N(z; alpha·x(u), sigma²) over the levels (VDM, section 3.1). In units of sigma the levels lie
    d = 2/(levels−1)·alpha/sigma apart, so the log-odds of level u − j are ½eps² − ½(eps + d·j)². Levels more than
    twelve sigmas away are left out: their share is below e^-18 even for eps = 6.
    """
    d = (torch.exp(-first / 2) * spacing(levels, eps)).float().unsqueeze(-1)
    most = torch.as_tensor(levels, device=u.device).unsqueeze(-1)
    reach = min(int(most.max()) - 1, math.ceil(12 / max(float(d.detach().min()), 1e-30)))
    j = torch.arange(-reach, reach + 1, device=u.device)
    level = u.long().unsqueeze(-1) - j
    logits = -0.5 * (eps.unsqueeze(-1) + d * j).square()
    inside = logits.masked_fill((level < 0) | (level >= most), -math.inf).logsumexp(-1)
    return inside + 0.5 * eps.square()
