"""A forward process that is learned with the denoiser (Kingma et al. 2021, VDM; see gen_ray/maths/learned.py).

The net is a Diffuser, net(x_0, t, eps) -> NoisedOutput. The time input of its denoiser is gamma scaled from [gamma_min,
gamma_max] to [0, 1]. k = 1 … T are at the times 0 … 1, and p(x_{k−1}|x_k) = q(x_{k−1}|x_k, x_0 = x̂_0).
"""

from typing import cast

import torch
from torch import Tensor, nn

from gen_ray.families.ddpm.forward import Forward
from gen_ray.families.ddpm.parametrization import Parametrization
from gen_ray.family import LossTerms
from gen_ray.maths import learned
from gen_ray.maths.features import FeatureBatch
from gen_ray.maths.noise import stratified_uniform
from gen_ray.maths.schedules import DiscreteSchedule, Learned, alpha_bar_of, times
from gen_ray.nets import Diffuser, Gamma, NoisedOutput


class LearnedForward(Forward):
    """A forward process with a monotone gamma(t). Training evaluates the net's gamma; the chain uses ``schedule``.

    ``schedule`` is a straight line until ``fitted``. As the denoiser's input is the SNR and not the time, a chain on
    any schedule between the same ends is valid.
    """

    decoder_nfe = 0

    def __init__(self, config: Learned, schedule: DiscreteSchedule, parametrization: Parametrization) -> None:
        """Set up the chain and select the training estimate of the bound by config.estimate."""
        super().__init__(schedule, parametrization)
        self.config = config
        self.diffusion = {"continuous": self._continuous, "discrete": self._discrete}[config.estimate]

    def wrapped(self, denoiser: nn.Module) -> nn.Module:
        """Return a Diffuser of the denoiser and a new gamma."""
        low, high = self.config.gamma_min, self.config.gamma_max
        return Diffuser(denoiser, Gamma(self.config.hidden, low, high, learn_ends=self.config.learn_ends), low, high)

    @torch.no_grad()
    def fitted(self, net: nn.Module) -> "LearnedForward":
        """Return the process with the gamma of net, an unwrapped Diffuser."""
        gamma, _ = cast(Diffuser, net).gamma(times(self.schedule.T).to(next(net.parameters()).device))
        return LearnedForward(self.config, DiscreteSchedule(alpha_bar_of(gamma.cpu())), self.parametrization)

    def network_time(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return gamma scaled from [gamma_min, gamma_max] to [0, 1], (B,)."""
        return learned.place(alpha, sigma, self.config.gamma_min, self.config.gamma_max).flatten()

    def loss(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator) -> LossTerms:
        """Return the bound prior + diffusion + reconstruction (VDM eq. 11), (B,) nats, at one time per example."""
        u, x_0, levels = batch.u, batch.x, self.parametrization.features.levels
        t = stratified_uniform(len(x_0), rng, x_0.device)
        eps, eps_0 = (torch.randn(x_0.shape, generator=rng, device=x_0.device) for _ in range(2))
        diffusion, variance_loss, seen = self.diffusion(net, batch, eps, t)
        parts = {
            "prior_nats": learned.prior_nats(x_0, seen.last, batch.mask),
            "diffusion_nats": diffusion,
            "decoder_nats": learned.reconstruction_nats(u, eps_0, seen.first, levels, batch.mask),
        }
        return LossTerms(total=torch.stack(list(parts.values())).sum(0) + variance_loss, parts=parts)

    def _continuous(
        self, net: nn.Module, batch: FeatureBatch, eps: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, NoisedOutput]:
        """Return ½·gamma'(t)·‖eps − eps_hat‖² (VDM eq. 17), the schedule's variance loss, each (B,), and the pass."""
        seen: NoisedOutput = net(batch.x, t, eps, roles=batch.roles)
        nats = learned.diffusion_nats(eps, self._eps_hat(seen), seen.rise, batch.mask)
        return nats, learned.schedule_variance_loss(nats, seen.log_slope), seen

    def _discrete(
        self, net: nn.Module, batch: FeatureBatch, eps: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, NoisedOutput]:
        """Return (T−1)/2·expm1(gamma_t − gamma_s)·‖eps − eps_hat‖² (VDM eq. 14), zeros, each (B,), and the pass.

        All of gamma learns from this bound, so a variance loss is not needed.
        """
        steps = self.schedule.T - 1
        end = 1 + (t * steps).floor().clamp(max=steps - 1)
        seen: NoisedOutput = net(batch.x, end / steps, eps, (end - 1) / steps, roles=batch.roles)
        nats = learned.diffusion_nats(eps, self._eps_hat(seen), steps * torch.expm1(seen.rise), batch.mask)
        return nats, torch.zeros_like(nats), seen

    def _eps_hat(self, seen: NoisedOutput) -> Tensor:
        alpha, sigma = learned.marginal(seen.gamma, seen.x_t.ndim)
        prediction = self.parametrization.predicted(seen.output.float(), seen.x_t, alpha, sigma)
        return self.parametrization.prediction.to_eps(prediction, seen.x_t, alpha, sigma)

    def decoder_nats(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator) -> Tensor:
        """Return −log p(u|x_1) of each feature, p(u|x_1) ∝ q(x_1|u) (VDM, section 3.1), (B, *shape) nats.

        The net is not needed.
        """
        u, levels = batch.u, self.parametrization.features.levels
        eps = torch.randn(u.shape, generator=rng, device=u.device)
        return learned.reconstruction_cells(u, eps, -self.schedule.log_snr[1].to(u.device), levels)
