"""The forward process as the family sees it, and the terms of the bound that hold whether it is given or learned."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from gen_ray.families.ddpm.parametrization import Parametrization
from gen_ray.family import LossTerms
from gen_ray.maths import gaussian
from gen_ray.maths.bounds import ChainBound
from gen_ray.maths.schedules import Discrete


class Forward(ABC):
    """A chain of T steps; u are stored data, x_0 the same in [−1, 1], (B, C, H, W)."""

    decoder_nfe: ClassVar[int]
    """Network evaluations of decoder_nats."""

    def __init__(self, schedule: Discrete, reading: Parametrization) -> None:
        """Prepare the bound."""
        self.schedule, self.reading = schedule, reading
        self.bound = ChainBound(schedule, reading.variance, reading.levels)

    @abstractmethod
    def wrapped(self, denoiser: nn.Module) -> nn.Module:
        """Return the denoiser together with what is learned of the process."""

    @abstractmethod
    def fitted(self, net: nn.Module) -> "Forward":
        """Return the process that net has learned."""

    @abstractmethod
    def told(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the denoiser is told of where x_t stands, (B,), from t = k/T (B,) and the marginal (B, 1, …)."""

    @abstractmethod
    def loss(self, net: nn.Module, u: Tensor, x_0: Tensor, rng: torch.Generator) -> LossTerms:
        """Return the training loss, (B,)."""

    @abstractmethod
    def decoder_nats(self, net: nn.Module, u: Tensor, x_0: Tensor, rng: torch.Generator) -> Tensor:
        """Return L_0 = −log p(u|x_1), (B,) nats."""

    def step_nats(self, net: nn.Module, u: Tensor, x_0: Tensor, rng: torch.Generator, k: Tensor) -> Tensor:
        """Return L_{k−1} at k (B,) in {1 … T} by one network evaluation, (B,) nats."""
        eps, step = torch.randn(x_0.shape, generator=rng, device=x_0.device), self.bound.at(k, x_0.ndim)
        x_t = gaussian.diffuse(x_0, eps, step.alpha, step.sigma)  # x_t ~ q(x_k | x_0)
        x_0_hat, v = self.denoise(net, x_t, k / self.schedule.T, step.alpha, step.sigma)
        return self.bound.step_nats(u, x_0, x_t, k, x_0_hat, v)

    def denoise(
        self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return x̂_0 (B, C, H, W), clipped to the data's range if so configured, and v of a learned variance."""
        prediction, v = self.reading.evaluate(net, x_t, self.told(t, alpha, sigma))
        return self.reading.clipped(self.reading.prediction.to_x_0(prediction, x_t, alpha, sigma)), v
