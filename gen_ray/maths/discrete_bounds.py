"""Training losses and likelihood bounds of categorical diffusion: bounds on −ln p(x_0), per example (B,) in nats.

``net(x_t (B, *shape) int64, t (B,) float32)`` returns logits (B, *shape, K) of x_0 at every position given x_t at the
*other* positions. At a masked position this is p(x_0|x_t); with the uniform limit, Bayes' rule adds the position's
symbol (categorical.py).

A net for masks gets the masked share n/D as its time: p(x_0|x_t) depends only on the unmasked symbols (Ou et al. 2024,
arXiv 2406.03736), so one net serves every schedule, sampler and imputation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.categorical import (
    Corruption,
    cross_entropies,
    cross_entropy,
    log_binomial,
    uniform_kl,
    uniform_x_0_nats,
)
from gen_ray.maths.noise import stratified_step

STEPS_AT_ONCE = 1000
"""Rows of the T×D table of binomial probabilities that are in memory at the same time."""


def uniform_like(x: Tensor, rng: torch.Generator) -> Tensor:
    """Return uniforms in [0, 1) of the shape of x, float64."""
    return torch.rand(x.shape, generator=rng, device=x.device, dtype=torch.float64)


def observed(x: Tensor, mask: int) -> Tensor:
    """Return a mask (B, *shape), True at the positions that have a value; those that have none hold the symbol mask."""
    return x != mask


def masked_share(masked: Tensor) -> Tensor:
    """Return n/D (B,), float32: the time input of a net for masks."""
    return masked.flatten(1).float().mean(1)


# ---- masks ----------------------------------------------------------------------------------------------------------


def masked_cells(net: nn.Module, x: Tensor, masked: Tensor, mask: int) -> Tensor:
    """Return −ln p(x_0) at the masked positions and 0 elsewhere, (B, *shape), nats, by one evaluation.

    x (B, *shape) int64, masked of its shape. A missing value of x holds the symbol mask; it is masked anyway, and never
    a target.
    """
    inputs = torch.where(masked, mask, x)
    return cross_entropies(net(inputs, masked_share(inputs == mask)), x, masked & observed(x, mask))


def masked_nats(net: nn.Module, x: Tensor, masked: Tensor, mask: int) -> Tensor:
    """Return the sum of ``masked_cells`` over the positions, (B,) nats."""
    return masked_cells(net, x, masked, mask).flatten(1).sum(1)


def random_masks(x: Tensor, n: Tensor, rng: torch.Generator, among: Tensor | None = None) -> Tensor:
    """Return masks (B, *shape) of n (B,) positions each, every set of them equally likely.

    among (B, *shape) is True at the positions that may be masked, at least n of them; None means all.
    """
    u = uniform_like(x, rng)
    if among is not None:
        u = u.masked_fill(~among, 2.0)  # sorted after all positions that may be masked
    return (u.flatten(1).argsort(1).argsort(1) < n[:, None]).view(x.shape)


def count_weights(D: int, alpha_bar: Tensor | None = None) -> Tensor:
    """Return w (D,), float64: the bound is Σ_n w[n−1]·E[masked_nats of n random positions], n = 1 … D.

    Without alpha_bar: 1/n, the any-order bound (Hoogeboom et al. 2022, arXiv 2110.02037, eq. 5), which is the
    continuous-time absorbing bound ∫ −alpha_bar′/(1 − alpha_bar)·E[masked_nats] dt for *every* schedule from 1 to 0,
    because ∫ Bin(n; D, p) dp/p = 1/n. With alpha_bar (T+1,): the bound of that chain, Σ_k L_{k−1} (D3PM, A.3).
    """
    if alpha_bar is None:
        return 1 / torch.arange(1, D + 1, dtype=torch.float64)
    hidden = 1 - alpha_bar[1:]
    revealed = (alpha_bar[:-1] - alpha_bar[1:]) / hidden
    blocks = zip(revealed.split(STEPS_AT_ONCE), hidden.split(STEPS_AT_ONCE), strict=True)
    return torch.stack([share @ log_binomial(D, p).exp()[:, 1:] for share, p in blocks]).sum(0)


def masked_bound_cells(
    net: nn.Module,
    x: Tensor,
    targets: Tensor,
    weigh: Callable[[int], Tensor],
    mask: int,
    effort: int,
    rng: torch.Generator,
) -> tuple[Tensor, int]:
    """Return an unbiased estimate (B, *shape) of Σ_n weigh(m)[n−1]·E[masked_cells], n = 1 … m, and the evaluations.

    targets (B, *shape) is True at the values that may be masked, m of them in a row; weigh(m) are their weights (m,).
    1 … m is divided into min(effort, m) equal parts and one n is drawn in each; with effort >= m every n is used once.

    The sum over the positions bounds −ln p(targets | the rest), because every order of revealing the targets is a chain
    rule of it. The draws of a row do not depend on the targets of other rows.
    """
    m = targets.flatten(1).sum(1)
    draws, (numbers, which) = m.clamp(max=effort), m.unique(return_inverse=True)
    weights = pad_sequence([weigh(number) for number in numbers.tolist()], batch_first=True).to(x.device)
    nats, nfe = torch.zeros(x.shape, device=x.device), int(draws.max())
    for part in range(nfe):
        n = stratified_step(m, part, draws.clamp(min=1), len(x), rng, x.device)
        masked, rows = random_masks(x, n, rng, targets), (part < draws).nonzero().flatten()
        weight = append_dims((weights[which, n - 1] * (m.double() / draws))[rows], x.ndim)
        cells = weight.float() * masked_cells(net, x[rows], masked[rows], mask)
        nats = nats.to(cells).index_add(0, rows, cells)
    return nats, nfe


def ordered_nats(net: nn.Module, x: Tensor, missing: Tensor | None = None) -> Tensor:
    """Return −ln p(x) (B,), exact, of a causal net by one evaluation.

    If missing (B, *shape), True at missing values, is given, the sum is over these only. It is −ln p(missing values |
    the rest) if they are the last positions, because then all known values come before them.

    It is the bound of the chain that masks the last position at step 1, the one before it at step 2, … (D3PM, section
    3.3): step k reveals position D−k given all before it, and a causal net sees exactly those.
    """
    where = torch.ones_like(x, dtype=torch.bool) if missing is None else missing
    return cross_entropy(net(x, torch.zeros(len(x), device=x.device)), x, where)


# ---- the uniform limit ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class UniformChain:
    """T steps towards uniform noise; alpha_bar (T+1,), float64, from 1 to 0, so that L_T = 0.

    K is the number of categories. For tables, cardinalities (D,) are those of the columns; a missing value holds the
    symbol K, which never changes.
    """

    alpha_bar: Tensor
    K: int
    cardinalities: Tensor | None = None

    @property
    def T(self) -> int:
        """Return the number of steps."""
        return len(self.alpha_bar) - 1

    def step_cells(self, net: nn.Module, x: Tensor, k: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return L_{k−1} and −ln p(x_0|x_k) of each position, each (B, *shape), at one x_k ~ q(x_k|x_0), k (B,).

        L_{k−1} = KL(q(x_{k−1}|x_k,x_0) ‖ p(x_{k−1}|x_k)), for k in 1 … T; at k = 1 it is −ln p(x_0|x_1).
        """
        cardinalities = None if self.cardinalities is None else self.cardinalities.to(x.device)
        now, after = (append_dims(self.alpha_bar.to(x.device)[j], x.ndim) for j in (k, k - 1))
        limit = Corruption.uniform(self.K if cardinalities is None else cardinalities)
        present = observed(x, self.K)
        x_k = torch.where(present, limit.diffuse(x, now, uniform_like(x, rng)), x)
        log_p = net(x_k, (k / self.T).float()).log_softmax(-1)
        at_0, at_k = x.masked_fill(~present, 0), x_k.masked_fill(~present, 0)
        kl = uniform_kl(log_p, at_k, at_0, now / after, after, cardinalities)
        ce = uniform_x_0_nats(log_p, at_k, at_0, now, cardinalities)
        return kl.masked_fill(~present, 0.0), ce.masked_fill(~present, 0.0)

    def step_nats(self, net: nn.Module, x: Tensor, k: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the sums of ``step_cells`` over the positions, each (B,)."""
        kl, ce = self.step_cells(net, x, k, rng)
        return kl.flatten(1).sum(1), ce.flatten(1).sum(1)

    def bound_cells(self, net: nn.Module, x: Tensor, rng: torch.Generator, draws: int) -> Tensor:
        """Return an unbiased estimate (B, *shape) of Σ_k L_{k−1} by ``draws`` <= T evaluations, spread evenly."""
        nats = torch.zeros(x.shape, device=x.device)
        for part in range(draws):
            k = stratified_step(self.T, part, draws, len(x), rng, x.device)
            nats = nats + (self.T / draws) * self.step_cells(net, x, k, rng)[0]
        return nats
