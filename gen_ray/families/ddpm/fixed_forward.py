"""The forward process of a fixed schedule, and its training losses."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gen_ray.families.ddpm.config import DdpmConfig
from gen_ray.families.ddpm.forward import Forward
from gen_ray.families.ddpm.parametrization import Parametrization
from gen_ray.family import LossTerms
from gen_ray.maths import gaussian, likelihoods
from gen_ray.maths.bounds import ChainStep
from gen_ray.maths.features import FeatureBatch
from gen_ray.maths.noise import stratified_steps
from gen_ray.maths.schedules import DiscreteSchedule

HYBRID_WEIGHT = 1e-3
"""Nichol & Dhariwal's weight of the bound, for L_simple summed over the dimensions."""


@dataclass(frozen=True, kw_only=True)
class NoisedBatch:
    """One x_k ~ q(x_k | x_0) per example and the network's prediction; v if the variance is learned.

    k (B,); step (B, 1, …) each; output is that of the net for the prediction; the other tensors (B, *shape).
    """

    batch: FeatureBatch
    eps: Tensor
    k: Tensor
    step: ChainStep
    x_t: Tensor
    output: Tensor
    prediction: Tensor
    v: Tensor | None


class FixedForward(Forward):
    """A forward process that is not learned."""

    decoder_nfe = 1

    def __init__(self, config: DdpmConfig, schedule: DiscreteSchedule, parametrization: Parametrization) -> None:
        """Set up the chain and select the loss by config.loss."""
        super().__init__(schedule, parametrization)
        self.vlb_weight, self.min_snr = config.vlb_weight or HYBRID_WEIGHT, config.min_snr
        simple = self._hybrid if parametrization.learns_variance else self._simple
        self.loss_fn = {"simple": simple, "vlb": self._vlb}[config.loss]

    def wrapped(self, denoiser: nn.Module) -> nn.Module:
        """Return the denoiser unchanged."""
        return denoiser

    def fitted(self, net: nn.Module) -> "FixedForward":
        """Return this process, which has no learned part."""
        return self

    def network_time(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return t (B,)."""
        return t

    def loss(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator) -> LossTerms:
        """Return L_simple = ‖target − prediction‖² (Ho et al. eq. 14), T·L_{k−1} in nats, or their hybrid, (B,).

        k is stratified over the batch: one uniform draw in each of B equal parts of {1 … T}.
        """
        k = stratified_steps(self.schedule.T, len(batch.x), rng, batch.x.device)
        return self.loss_fn(self._noised(net, batch, rng, k))

    def _noised(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator, k: Tensor) -> NoisedBatch:
        x_0 = batch.x
        eps, step = torch.randn(x_0.shape, generator=rng, device=x_0.device), self.bound.at(k, x_0.ndim)
        x_t = batch.seen(gaussian.diffuse(x_0, eps, step.alpha, step.sigma))  # x_t ~ q(x_k | x_0)
        found = self.parametrization.evaluate(net, x_t, k / self.schedule.T, step.alpha, step.sigma, batch.roles)
        return NoisedBatch(batch=batch, eps=eps, k=k, step=step, x_t=x_t, **found._asdict())

    def _simple(self, draw: NoisedBatch) -> LossTerms:
        simple = self._error(draw)
        return LossTerms(total=simple, parts={"simple": simple})

    def _hybrid(self, draw: NoisedBatch) -> LossTerms:
        """Return the hybrid loss (Nichol & Dhariwal eq. 16): only the variance learns from the bound."""
        fixed = replace(draw, output=draw.output.detach())
        simple = self._error(draw)
        vlb = self._nats(fixed, self.parametrization.clipped(self._x_0_hat(draw)).detach())
        return LossTerms(total=simple + self.vlb_weight * vlb, parts={"simple": simple, "vlb_nats": vlb})

    def _vlb(self, draw: NoisedBatch) -> LossTerms:
        vlb = self._nats(draw, self._x_0_hat(draw))  # not clipped: clipped values have no gradient
        return LossTerms(total=vlb, parts={"vlb_nats": vlb})

    def _error(self, draw: NoisedBatch) -> Tensor:
        target = self.parametrization.prediction.target(draw.batch.x, draw.eps, draw.step.alpha, draw.step.sigma)
        error = likelihoods.sum_dims((target - draw.prediction).square(), draw.batch.mask)
        return error if self.min_snr is None else error * self._min_snr(draw.step, self.min_snr)

    def _min_snr(self, step: ChainStep, most: float) -> Tensor:
        """Return the weight (B,) that gives the error of x_0 the weight min(SNR, most) (Hang et al. 2023, Min-SNR)."""
        slope = self.parametrization.prediction.to_x_0(
            torch.ones_like(step.alpha), 0 * step.alpha, step.alpha, step.sigma
        )
        return ((step.alpha / step.sigma).square().clamp(max=most) * slope.square()).flatten()

    def _x_0_hat(self, draw: NoisedBatch) -> Tensor:
        return self.parametrization.prediction.to_x_0(draw.prediction, draw.x_t, draw.step.alpha, draw.step.sigma)

    def _nats(self, draw: NoisedBatch, x_0_hat: Tensor) -> Tensor:
        return self.schedule.T * likelihoods.sum_dims(self._cells(draw, x_0_hat), draw.batch.mask)

    def _cells(self, draw: NoisedBatch, x_0_hat: Tensor) -> Tensor:
        """Return L_{k−1} of each feature, (B, *shape) nats."""
        u, step = draw.batch.u, draw.step
        nats = self.bound.step_nats(u, draw.batch.x, draw.x_t, draw.k, x_0_hat, draw.v)
        first = (draw.k == 1).nonzero().flatten()
        seen = (part[first] for part in (u, draw.output, draw.x_t, step.alpha, step.sigma, nats))
        return nats.index_copy(0, first, self.parametrization.features.decoder_nats(*seen))

    def decoder_nats(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator) -> Tensor:
        """Return −log p(u|x_1) of each feature, (B, *shape) nats.

        p(u|x_1) is a discretised Gaussian around x̂_0, or that of the features if they have a decoder.
        """
        draw = self._noised(net, batch, rng, torch.ones(len(batch.x), dtype=torch.long, device=batch.x.device))
        return self._cells(draw, self.parametrization.clipped(self._x_0_hat(draw)))
