"""The interface of forward processes, and the terms of the bound that fixed and learned processes have in common."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from gen_ray.families.ddpm.parametrization import Parametrization
from gen_ray.family import LossTerms
from gen_ray.maths import gaussian
from gen_ray.maths.bounds import ChainBound
from gen_ray.maths.features import FeatureBatch, Roles
from gen_ray.maths.schedules import DiscreteSchedule


class Forward(ABC):
    """A chain of T steps on the features of stored data, (B, *shape). Missing features are left out of all terms."""

    decoder_nfe: ClassVar[int]
    """The number of network evaluations of decoder_nats."""

    def __init__(self, schedule: DiscreteSchedule, parametrization: Parametrization) -> None:
        """Store the chain's schedule and the parametrisation of the net, and make the bound of both."""
        self.schedule, self.parametrization = schedule, parametrization
        self.bound = ChainBound(schedule, parametrization.variance, parametrization.features.levels)

    @abstractmethod
    def wrapped(self, denoiser: nn.Module) -> nn.Module:
        """Return a net of the denoiser and the learned parts of the process."""

    @abstractmethod
    def fitted(self, net: nn.Module) -> "Forward":
        """Return this process with the parts that net has learned."""

    @abstractmethod
    def network_time(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the denoiser's time input (B,) from t = k/T (B,) and the marginal alpha, sigma (B, 1, …)."""

    @abstractmethod
    def loss(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator) -> LossTerms:
        """Return the training loss, (B,)."""

    @abstractmethod
    def decoder_nats(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator) -> Tensor:
        """Return L_0 = −log p(u|x_1) of each feature, (B, *shape) nats."""

    def step_nats(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator, k: Tensor) -> Tensor:
        """Return L_{k−1} of each feature at k (B,) in {1 … T} by one network evaluation, (B, *shape) nats."""
        x_0 = batch.x
        eps, step = torch.randn(x_0.shape, generator=rng, device=x_0.device), self.bound.at(k, x_0.ndim)
        x_t = batch.seen(gaussian.diffuse(x_0, eps, step.alpha, step.sigma))  # x_t ~ q(x_k | x_0)
        x_0_hat, v = self.denoise(net, x_t, k / self.schedule.T, step.alpha, step.sigma, batch.roles)
        return self.bound.step_nats(batch.u, x_0, x_t, k, x_0_hat, v)

    def denoise(
        self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, roles: Roles | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return x̂_0, clipped to [−1, 1] if configured, and v of a learned variance or None; each (B, *shape).

        Given features of x_t are without noise; roles None: all are noisy.
        """
        time = self.network_time(t, alpha, sigma)
        _, prediction, v = self.parametrization.evaluate(net, x_t, time, alpha, sigma, roles)
        return self.parametrization.clipped(self.parametrization.prediction.to_x_0(prediction, x_t, alpha, sigma)), v
