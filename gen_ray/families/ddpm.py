"""Denoising diffusion in discrete time (Ho et al. 2020, arXiv 2006.11239; Nichol & Dhariwal 2021, arXiv 2102.09672).

q(x_k|x_{k-1}) = N(sqrt(1−beta_k) x_{k-1}, beta_k I) is inverted by p(x_{k-1}|x_k) = N(mu(x_k, x̂_0), variance),
mu being the mean of the posterior q(x_{k-1}|x_k, x_0) at the network's x̂_0.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gen_ray.config import named
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.family import Chain, Family, FamilyConfig, LossTerms, Nll, Sampler, parse_sampler
from gen_ray.maths import gaussian, likelihoods, tables
from gen_ray.maths.kernels import GaussianKernel
from gen_ray.maths.schedules import Discrete, Schedule
from gen_ray.nets import DenoiserConfig

HYBRID_WEIGHT = 1e-3
"""Nichol & Dhariwal's weight of the bound, in the units of L_simple summed over the dimensions."""
VARIANCES = {"small": tables.Variance.SMALL, "large": tables.Variance.LARGE, "learned": tables.Variance.LEARNED}


class DdpmConfig(FamilyConfig):
    """What a DDPM needs to know beyond its data."""

    name: Literal["ddpm"] = "ddpm"
    schedule: Annotated[Schedule, named("cosine")] = Field(default={"name": "cosine"}, validate_default=True)
    steps: int = Field(1000, ge=2, le=100_000)
    predict: Literal["eps", "x_0", "v"] = "eps"
    variance: Literal["small", "large", "learned"] = "small"
    loss: Literal["simple", "vlb"] = "simple"
    vlb_weight: float | None = Field(None, gt=0)
    clip: bool = True
    net: Annotated[DenoiserConfig, named("unet")] = Field(default={"name": "unet"}, validate_default=True)

    @model_validator(mode="after")
    def _effective(self) -> "DdpmConfig":
        hybrid = self.variance == "learned" and self.loss == "simple"
        if self.vlb_weight is not None and not hybrid:
            raise ValueError("vlb_weight has no effect without variance=learned and loss=simple (the hybrid loss)")
        return self


class Ddpm(Family):
    """T steps of Gaussian noise, learned backwards from eps, x_0 or v."""

    Config = DdpmConfig
    config: DdpmConfig

    def __init__(self, config: DdpmConfig, spec: DataSpec) -> None:
        """Lay out the schedule. Raise UserError for data that are not images."""
        super().__init__(config, spec)
        if not spec.is_image:
            raise UserError(f"family.name: ddpm models images; {spec.name} holds {spec.kind} (use discrete)")
        self.schedule = Discrete.of(config.schedule, config.steps)
        self.prediction = gaussian.PREDICTIONS[config.predict]
        self.variance = VARIANCES[config.variance]
        self.learned = self.variance is tables.Variance.LEARNED

    def build_net(self) -> nn.Module:
        """Return net(x (B,C,H,W), t (B,)) -> (B, C, H, W), with C more channels where the variance is learned."""
        return self.config.net.build(self.spec.shape, self.spec.shape[0] * (2 if self.learned else 1))

    # ---- the three readings of one network evaluation -------------------------------------------------------------

    def _evaluate(self, net: nn.Module, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the prediction and, where learned, v that interpolates (in [0, 1]) the log-variances."""
        output = net(x_t, t).float()
        if not self.learned:
            return output, None
        prediction, v = output.chunk(2, dim=1)
        return prediction, (v + 1) / 2

    def denoise(
        self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return x̂_0 (B, C, H, W), clipped to the data's range if so configured, and v of a learned variance."""
        prediction, v = self._evaluate(net, x_t, t)
        return self._clipped(self.prediction.to_x_0(prediction, x_t, alpha, sigma)), v

    def _clipped(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1) if self.config.clip else x_0

    def _at(self, values: Tensor, k: Tensor) -> Tensor:
        """Gather a schedule's column at k (B,) as (B, 1, 1, 1) float32."""
        return values.to(k.device)[k].float().view(-1, *[1] * len(self.spec.shape))

    def _scaled(self, x: Tensor) -> Tensor:
        return x.float() * (2 / (self.spec.levels - 1)) - 1

    # ---- training ---------------------------------------------------------------------------------------------------

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return L_simple = ‖target − prediction‖² (Ho et al. eq. 14), T·L_{k−1} in nats, or their hybrid (B,).

        k is stratified over the batch: one uniform draw in each of B equal parts of {1 … T}, which leaves the
        expectation as it is and takes most of the variance that comes from k alone.
        """
        T = self.config.steps
        strata = torch.arange(len(x), device=x.device) + torch.rand(len(x), generator=rng, device=x.device)
        k = 1 + (strata * (T / len(x))).long().clamp(max=T - 1)
        x_0 = self._scaled(x)
        eps = torch.randn(x_0.shape, generator=rng, device=x.device)
        alpha, sigma = self._at(self.schedule.alpha, k), self._at(self.schedule.sigma, k)
        x_t = gaussian.diffuse(x_0, eps, alpha, sigma)  # x_t ~ q(x_k | x_0)
        prediction, v = self._evaluate(net, x_t, k / T)
        x_0_hat = self.prediction.to_x_0(prediction, x_t, alpha, sigma)
        if self.config.loss == "vlb":
            vlb = T * self._step_nats(x, x_0, x_t, k, x_0_hat, v)  # unclipped: what is clipped learns nothing
            return LossTerms(total=vlb, parts={"vlb_nats": vlb})
        simple = (self.prediction.target(x_0, eps, alpha, sigma) - prediction).square().flatten(1).sum(1)
        if v is None:
            return LossTerms(total=simple, parts={"simple": simple})
        # Nichol & Dhariwal eq. 16: the variance learns from the bound, the mean does not.
        vlb = T * self._step_nats(x, x_0, x_t, k, self._clipped(x_0_hat).detach(), v)
        return LossTerms(
            total=simple + (self.config.vlb_weight or HYBRID_WEIGHT) * vlb, parts={"simple": simple, "vlb_nats": vlb}
        )

    # ---- likelihood -------------------------------------------------------------------------------------------------

    def _log_variance(self, k: Tensor, v: Tensor | None) -> Tensor:
        """Return ln of the variance of p(x_{k−1}|x_k), (B, 1, 1, 1) or (B, C, H, W)."""
        beta, beta_tilde = self.schedule.beta, self.schedule.posterior_variance.clone()
        beta_tilde[1] = beta_tilde[2]  # beta_tilde_1 is 0: its logarithm is taken from the step above
        small, large = self._at(beta_tilde.log(), k), self._at(beta.log(), k)
        fixed = torch.full_like(small, float(self.variance is tables.Variance.LARGE))
        return small + (fixed if v is None else v) * (large - small)

    def _step_nats(self, x: Tensor, x_0: Tensor, x_t: Tensor, k: Tensor, x_0_hat: Tensor, v: Tensor | None) -> Tensor:
        """Return L_{k−1} = KL(q(x_{k−1}|x_k, x_0) ‖ p(x_{k−1}|x_k)), or L_0 = −log p(x_0|x_1) where k = 1; (B,)."""
        coef_x, coef_x_0, variance = self._posterior(k)
        log_variance = self._log_variance(k, v)
        mean_hat = coef_x * x_t + coef_x_0 * x_0_hat
        true_log_variance = variance.clamp(min=1e-20).log()  # 0 where k = 1, which the decoder replaces below
        kl = likelihoods.normal_kl(coef_x * x_t + coef_x_0 * x_0, true_log_variance, mean_hat, log_variance)
        decoder = -likelihoods.discretised_gaussian_log_prob(
            x, mean_hat, (log_variance / 2).expand_as(mean_hat), self.spec.levels
        )
        first = (k == 1).view(-1, *[1] * len(self.spec.shape))
        return torch.where(first, decoder, kl).flatten(1).sum(1)

    def _posterior(self, k: Tensor) -> list[Tensor]:
        """Return the coefficients of x_k and x_0 and the variance of q(x_{k−1}|x_k, x_0) at k (B,), as (B, 1, 1, 1)."""
        wide = k.shape + (1,) * len(self.spec.shape)
        return [c.float().view(wide).to(k.device) for c in gaussian.posterior(self.schedule, k.cpu())]

    def prior_nats(self, x_0: Tensor) -> Tensor:
        """Return L_T = KL(q(x_T|x_0) ‖ N(0, I)), (B,) nats."""
        alpha, sigma = self.schedule.alpha[-1].float(), self.schedule.sigma[-1].float()
        return likelihoods.standard_normal_kl(alpha * x_0, 2 * sigma.log()).flatten(1).sum(1)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return the variational bound L_T + Σ_k L_{k−1} + L_0 (Ho et al. eq. 5) by 2 … T evaluations, as effort says.

        L_0 is always evaluated; the steps 2 … T fall into effort − 1 equal parts of which one uniform draw each is
        evaluated and weighted by the part's size: unbiased, and exact up to the draw of x_k once effort ≥ T.
        """
        T = self.config.steps
        x_0, draws = self._scaled(x), max(1, min(effort, T) - 1)
        prior, between = self.prior_nats(x_0), torch.zeros(len(x), device=x.device)
        first = self._nats_at(net, x, x_0, torch.ones(len(x), device=x.device), rng)
        for part in range(draws):
            low, high = part * (T - 1) / draws, (part + 1) * (T - 1) / draws
            u = torch.rand(len(x), generator=rng, device=x.device, dtype=torch.float64)
            k = 2 + (low + (high - low) * u).floor().clamp(max=T - 2)
            between = between + (high - low) * self._nats_at(net, x, x_0, k, rng)
        parts = {"prior": prior, "steps": between, "decoder": first}
        return Nll(nats=prior + between + first, kind="vlb", nfe=draws + 1, parts=parts)

    def _nats_at(self, net: nn.Module, x: Tensor, x_0: Tensor, k: Tensor, rng: torch.Generator) -> Tensor:
        k = k.long()
        eps = torch.randn(x_0.shape, generator=rng, device=x.device)
        alpha, sigma = self._at(self.schedule.alpha, k), self._at(self.schedule.sigma, k)
        x_t = gaussian.diffuse(x_0, eps, alpha, sigma)
        return self._step_nats(x, x_0, x_t, k, *self.denoise(net, x_t, k / self.config.steps, alpha, sigma))

    # ---- sampling ---------------------------------------------------------------------------------------------------

    def samplers(self) -> Mapping[str, Sampler]:
        """Return the samplers that are tables over this chain's time grid."""
        fifty, twenty = min(50, self.config.steps), min(20, self.config.steps)
        return {
            "ddim": Sampler(
                default_steps=fifty, nfe_per_step=1, summary="Song et al. 2021, eq. 12", options={"eta": (0.0, 1.0)}
            ),
            "ancestral": Sampler(default_steps=self.config.steps, nfe_per_step=1, summary="Ho et al. 2020, alg. 2"),
            "dpmpp_2m": Sampler(default_steps=twenty, nfe_per_step=1, summary="Lu et al. 2022, alg. 2"),
        }

    def chain(self, sampler: str, steps: int | None = None) -> Chain:
        """Return the table of a sampler, e.g. ``ddim:eta=0.5``, on steps of the T grid points."""
        name, options = parse_sampler(sampler, self.samplers())
        steps = self.samplers()[name].default_steps if steps is None else steps
        makers = {
            "ddim": lambda: tables.ddim(self.schedule, steps, eta=options.get("eta", 0.0)),
            "ancestral": lambda: tables.ancestral(self.schedule, steps, self.variance),
            "dpmpp_2m": lambda: tables.dpmpp_2m(self.schedule, steps),
        }
        return Chain(makers[name](), GaussianKernel(self.spec.shape, self.spec.levels, self.denoise))


FAMILY = Ddpm
