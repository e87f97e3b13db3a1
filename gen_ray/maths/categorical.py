"""Diffusion of categories in closed form (D3PM: Austin et al. 2021, arXiv 2107.03006).

One step keeps a symbol or replaces it by a draw from a fixed ``limit``: Q_t = a_t·I + (1 − a_t)·1·limitᵀ. Such matrices
are closed under products, so a chain is described by alpha_bar_t = prod a, the probability that a symbol was never
replaced. The limit is uniform (ibid., A.2.1) or the single symbol [MASK] (A.2.2). No K×K matrix is ever formed.

Letters: K categories of the data, S >= K symbols of x_t; (…) any leading axes. alpha_bar and a broadcast against (…).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Corruption:
    """The distribution of the symbol that replaces another: limit (S,), float64, sums to one.

    For the columns of a table it is (D, S), one distribution for each position of x (…, D).
    """

    limit: Tensor

    @classmethod
    def uniform(cls, K: int | Tensor) -> "Corruption":
        """Return the corruption whose limit is uniform over K symbols, or over the first K_d for each of K (D,)."""
        if isinstance(K, int):
            return cls(torch.full((K,), 1 / K, dtype=torch.float64))
        return cls(has_category(K).double() / K[:, None])

    @classmethod
    def absorbing(cls, K: int) -> "Corruption":
        """Return the corruption whose limit is [MASK], which is symbol K."""
        return cls(F.one_hot(torch.tensor(K), K + 1).double())

    @property
    def symbols(self) -> int:
        """Return S."""
        return self.limit.shape[-1]

    def cumulative(self, p: Tensor, alpha_bar: Tensor) -> Tensor:
        """Return q(x_t) = alpha_bar·p + (1 − alpha_bar)·limit (…, S) for x_0 ~ p (…, K); D3PM eq. 3."""
        kept = F.pad(p, (0, self.symbols - p.shape[-1]))
        return alpha_bar[..., None] * kept + (1 - alpha_bar[..., None]) * self.limit.to(p)

    def reverse(self, x_t: Tensor, p: Tensor, a: Tensor, alpha_bar_s: Tensor) -> Tensor:
        """Return p(x_s | x_t) (…, S), x_t (…,) integers: D3PM eq. 4, summed over x_0 in closed form.

        It is q(x_t|x_s) times the marginal of x_s, normalised. a = alpha_bar_t / alpha_bar_s is the survival from s to
        t. p (…, K) is the distribution of x_0 given x_t at all *other* positions: p = onehot(x_0) gives
        q(x_s|x_t,x_0), and a = 0 gives p(x_s | all other positions), one Gibbs step.
        """
        marginal = self.cumulative(p, alpha_bar_s)
        limit = self.limit.to(p).expand(*x_t.shape, -1).gather(-1, x_t[..., None])
        replaced = (1 - a)[..., None] * limit * marginal
        kept = a[..., None] * marginal.gather(-1, x_t[..., None])
        joint = replaced.scatter_add(-1, x_t[..., None], kept)
        return joint / joint.sum(-1, keepdim=True)

    def diffuse(self, x_0: Tensor, alpha_bar: Tensor, u: Tensor) -> Tensor:
        """Return x_t ~ q(x_t | x_0) (…,), int64, for x_0 (…,) int64 and uniforms u (…,), float64."""
        again = ((u - alpha_bar) / (1 - alpha_bar).clamp(min=torch.finfo(torch.float64).tiny)).clamp(min=0)
        cumulative = self.limit.cumsum(-1).to(u.device)
        if self.limit.ndim == 1:
            drawn = torch.searchsorted(cumulative, again, right=True).clamp(max=self.symbols - 1)
        else:
            drawn = (cumulative <= again[..., None] * cumulative[..., -1:]).sum(-1)
        return torch.where(u < alpha_bar, x_0, drawn)


def draw(weights: Tensor, u: Tensor) -> Tensor:
    """Return categories (…,) int64 of weights (…, K) >= 0, not all 0, by inverse CDF of uniforms u (…,).

    Both float64: a float32 sum loses probabilities below 1e-7, which lowers the temperature (arXiv 2409.02908).
    """
    cdf = weights.cumsum(-1)
    return (cdf <= u[..., None] * cdf[..., -1:]).sum(-1).clamp(max=weights.shape[-1] - 1)


def has_category(K: Tensor) -> Tensor:
    """Return a mask (D, max K), True at the categories that a column has, for the columns' numbers K (D,)."""
    return torch.arange(int(K.max()), device=K.device) < K[:, None]


def uniform_kl(
    log_p: Tensor, x_t: Tensor, x_0: Tensor, a: Tensor, alpha_bar_s: Tensor, cardinalities: Tensor | None = None
) -> Tensor:
    """Return KL(q(x_s|x_t,x_0) ‖ p(x_s|x_t)) (…,) nats for the uniform limit; −ln p(x_0|x_t) where alpha_bar_s = 1.

    cardinalities (D,) are the numbers of categories of the columns of a table, where log_p is −inf beyond them.

    log_p (…, K) = ln p of ``Corruption.reverse``; x_t, x_0 (…,); a and alpha_bar_s (…,) float64, alpha_bar_s > 0.
    q(x_s = j) is (a[j = x_t] + b)·(A[j = x_0] + B) / Z: an expectation under it takes one sum and two gathers.
    """
    K = log_p.shape[-1] if cardinalities is None else cardinalities
    a, b, A, B = (v.to(log_p) for v in (a, (1 - a) / K, alpha_bar_s, (1 - alpha_bar_s) / K))
    same = (x_t == x_0).to(log_p.dtype)
    absent = None if cardinalities is None else ~has_category(cardinalities)
    if absent is not None:  # the gradient of logaddexp(−inf, −inf) is NaN
        log_p = log_p.masked_fill(absent, 0.0)
    log_c = torch.logaddexp(A.log()[..., None] + log_p, B.log()[..., None])  # ln of the model's marginal of x_s
    if absent is not None:
        log_c = log_c.masked_fill(absent, 0.0)
    at_t, at_0 = (log_c.gather(-1, x[..., None])[..., 0] for x in (x_t, x_0))
    z_q, log_z_p = a * (A * same + B) + b, torch.logaddexp(a.log() + at_t, b.log())
    cross = b * B * log_c.sum(-1) + a * B * at_t + b * A * at_0 + a * A * same * at_0
    on_x_0 = (A + B) * (a * same + b)
    negentropy = on_x_0 * (A + B).log() + torch.xlogy(z_q - on_x_0, B)
    return (negentropy - cross) / z_q - z_q.log() + log_z_p


def uniform_x_0_nats(
    log_p: Tensor, x_t: Tensor, x_0: Tensor, alpha_bar: Tensor, cardinalities: Tensor | None = None
) -> Tensor:
    """Return −ln p(x_0|x_t) (…,) nats for the uniform limit, alpha_bar (…,) float64, < 1.

    The other arguments are those of ``uniform_kl``. By Bayes p(x_0|x_t) ∝ p(x_0)·q(x_t|x_0), and q(x_t|x_0) has one
    value for x_0 = x_t and another for all other x_0.
    """
    K = log_p.shape[-1] if cardinalities is None else cardinalities
    odds = (K * alpha_bar / (1 - alpha_bar)).to(log_p)  # q(x_t | x_0 = x_t) / q(x_t | other x_0) − 1
    at_t, at_0 = (log_p.gather(-1, x[..., None])[..., 0] for x in (x_t, x_0))
    return torch.log1p(odds * at_t.exp()) - at_0 - (x_t == x_0) * torch.log1p(odds)


def cross_entropies(logits: Tensor, x: Tensor, where: Tensor) -> Tensor:
    """Return −ln softmax(logits)[x] at the positions at which ``where`` is True, 0 elsewhere: (B, *shape) nats.

    logits (B, *shape, K), x (B, *shape) int64, where (B, *shape). Other positions take no computation.
    """
    chosen = F.cross_entropy(logits[where], x[where], reduction="none")
    return torch.zeros(x.shape, dtype=chosen.dtype, device=x.device).masked_scatter(where, chosen)


def cross_entropy(logits: Tensor, x: Tensor, where: Tensor) -> Tensor:
    """Return the sum of ``cross_entropies`` over the positions, (B,) nats."""
    return cross_entropies(logits, x, where).flatten(1).sum(1)


def mutual_information(alpha_bar: Tensor, marginal: Tensor) -> Tensor:
    """Return I(x_0; x_t) in nats (N,) for the uniform limit, alpha_bar (N,), x_0 ~ marginal (K,), all float64."""
    K, kept = len(marginal), alpha_bar[:, None]
    q = kept * marginal + (1 - kept) / K
    stays, other = alpha_bar + (1 - alpha_bar) / K, (1 - alpha_bar) / K
    noise = -torch.xlogy(stays, stays) - (K - 1) * torch.xlogy(other, other)  # H(x_t | x_0), the same for every x_0
    return -torch.xlogy(q, q).sum(1) - noise


def log_binomial(n: int, p: Tensor) -> Tensor:
    """Return ln Bin(k; n, p) for k = 0 … n: (…, n+1), float64, p (…,) in [0, 1]."""
    k = torch.arange(n + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    p = p.double()[..., None]
    return ways + torch.xlogy(k, p) + torch.special.xlog1py(n - k, -p)
