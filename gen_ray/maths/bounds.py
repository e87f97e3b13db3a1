"""The variational bound of a Gaussian chain, term by term (Ho et al. 2020, eq. 5): L_T + Σ_k L_{k−1} + L_0, in nats.

Shapes: B batch, then the axes of an example, written (B, …); one number per example is (B, 1, …).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from gen_ray.maths import gaussian, likelihoods
from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.levels import Levels
from gen_ray.maths.noise import stratified_step
from gen_ray.maths.schedules import DiscreteSchedule
from gen_ray.maths.tables import Variance


class ChainStep(NamedTuple):
    """The coefficients of a chain at step k, each (B, 1, …) float32."""

    alpha: Tensor
    sigma: Tensor
    coef_x: Tensor  # coefficients of x_k and x_0 in the mean of q(x_{k−1} | x_k, x_0)
    coef_x_0: Tensor
    log_true: Tensor  # ln of the variance of q(x_{k−1} | x_k, x_0); very small where k = 1
    log_middle: Tensor  # ln of the geometric mean of the smallest and the largest variance of p(x_{k−1} | x_k)
    log_reach: Tensor  # ln of the largest variance over that mean


LARGENESS = {Variance.SMALL: -1.0, Variance.LARGE: 1.0}
"""The position of a fixed variance between the smallest (−1) and the largest (1) one, in log space."""


@dataclass(frozen=True, eq=False)
class ChainBound:
    """The bound of p(x_{k−1}|x_k) = N(coef_x·x_k + coef_x_0·x̂_0, variance) on data of ``levels`` levels.

    Its terms are sums over the scalars of an example, because both normals of a KL are diagonal.
    """

    schedule: DiscreteSchedule
    variance: Variance
    levels: Levels
    _columns: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def at(self, k: Tensor, ndim: int) -> ChainStep:
        """Return the coefficients at k (B,), integers in {1 … T}, each (B, 1, …) with ndim axes."""
        if k.device not in self._columns:
            self._columns[k.device] = self._laid_out().to(k.device, torch.float32)
        return ChainStep(*(append_dims(column, ndim) for column in self._columns[k.device][k].unbind(1)))

    def _laid_out(self) -> Tensor:
        """Return the columns of ChainStep for k = 0 … T, (T+1, 7) float64; row 0 is not used."""
        d = self.schedule
        q = gaussian.posterior(d, torch.arange(1, d.T + 1))
        tilde = q.variance.clone()
        tilde[0] = tilde[1]  # beta_tilde_1 is 0 and has no logarithm: use that of k = 2
        least, largest = tilde.log(), d.beta[1:].log()
        log_true = q.variance.clamp(min=1e-20).log()
        columns = [
            d.alpha[1:],
            d.sigma[1:],
            q.coef_x,
            q.coef_x0,
            log_true,
            (least + largest) / 2,
            (largest - least) / 2,
        ]
        return torch.cat([torch.zeros(1, 7, dtype=torch.float64), torch.stack(columns, 1)])

    def log_variance(self, step: ChainStep, v: Tensor | None) -> Tensor:
        """Return ln of the variance of p(x_{k−1}|x_k): (B, 1, …), or (B, …) if the net predicts it by v (B, …)."""
        return step.log_middle + (LARGENESS[self.variance] if v is None else v) * step.log_reach

    def step_nats(self, u: Tensor, x_0: Tensor, x_t: Tensor, k: Tensor, x_0_hat: Tensor, v: Tensor | None) -> Tensor:
        """Return L_{k−1} = KL(q(x_{k−1}|x_k, x_0) ‖ p(x_{k−1}|x_k)), or L_0 = −log p(u|x_1) where k = 1; (B, …).

        u (B, …) are the stored levels of x_0. L_0 is computed only for the rows at k = 1, because it costs much more.
        """
        step = self.at(k, x_0.ndim)
        log_variance = self.log_variance(step, v)
        drift = step.coef_x * x_t
        mean_hat = drift + step.coef_x_0 * x_0_hat
        kl = likelihoods.normal_kl(drift + step.coef_x_0 * x_0, step.log_true, mean_hat, log_variance)
        first = (k == 1).nonzero().flatten()
        mean, log_sigma = mean_hat[first], (log_variance[first] / 2).expand_as(mean_hat[first])
        log_p = likelihoods.discretised_gaussian_log_prob(u[first], mean, log_sigma, self.levels)
        return kl.index_copy(0, first, -log_p)

    def prior_cells(self, x_0: Tensor) -> Tensor:
        """Return the parts of L_T = KL(q(x_T|x_0) ‖ N(0, I)) due to each scalar, (B, …)."""
        alpha, sigma = self.schedule.alpha[-1].float(), self.schedule.sigma[-1].float()
        return likelihoods.standard_normal_kl(alpha * x_0, 2 * sigma.log())

    def prior_nats(self, x_0: Tensor) -> Tensor:
        """Return L_T, (B,)."""
        return likelihoods.sum_dims(self.prior_cells(x_0))


def summed(nats_at: Callable[[Tensor], Tensor], T: int, draws: int, like: Tensor, rng: torch.Generator) -> Tensor:
    """Return an unbiased estimate (B, …) of Σ_{k=2}^{T} nats_at(k) per example, by ``draws`` evaluations.

    Shape and device are those of ``like``. The steps are divided into ``draws`` equal parts; one uniformly drawn step
    of each is evaluated and weighted by the part's size. With draws = T − 1 only nats_at itself is random.
    """
    total = torch.zeros_like(like)
    for part in range(draws):
        k = 1 + stratified_step(T - 1, part, draws, len(like), rng, like.device)
        total = total + (T - 1) / draws * nats_at(k)
    return total
