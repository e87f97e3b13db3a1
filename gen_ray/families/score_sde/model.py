"""The score-based family: denoising score matching, densities by the probability flow, and samplers as tables."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.families.score_sde.config import ScoreSdeConfig
from gen_ray.families.score_sde.estimators import TRACES, WEIGHTINGS
from gen_ray.families.score_sde.samplers import imputers, samplers
from gen_ray.family import Family, LossTerms, Nll
from gen_ray.maths import gaussian, ode
from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.gaussian_steppers import FlowStepper
from gen_ray.maths.levels import scaled
from gen_ray.maths.noise import stratified_uniform
from gen_ray.maths.sampler import TableSampler


class ScoreSde(Family):
    """A noise predictor on a linear SDE."""

    Config = ScoreSdeConfig
    config: ScoreSdeConfig

    def __init__(self, config: ScoreSdeConfig, spec: DataSpec) -> None:
        """Store the settings and the data's spec. Raise UserError for data that are not images."""
        super().__init__(config, spec)
        self.require_images()
        self.sde, self.prediction = config.sde, gaussian.PREDICTIONS[config.predict]
        self.bin = 2 / (spec.levels - 1)

    def build_net(self) -> nn.Module:
        """Return net(z (B,C,H,W), t (B,)) -> (B, C, H, W)."""
        return self.config.net.build(self.spec.shape, self.spec.shape[0])

    # ---- one network evaluation -------------------------------------------------------------------------------------

    def denoise(self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, None]:
        """Return x̂_0 (B, C, H, W), clipped to the range of (dequantised) data if configured; no learned variance."""
        scale = (alpha * alpha + sigma * sigma).rsqrt()
        z = x_t * scale
        x_0 = self.prediction.to_x_0(net(z, t).float(), z, alpha * scale, sigma * scale)
        edge = 1 + self.bin / 2 * self.config.dequantise
        return x_0.clamp(-edge, edge) if self.config.clip else x_0, None

    def _eps(self, net: nn.Module, z: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """Return eps_hat (B, *shape) at z (B, *shape) and times t (B,), u = ln(sigma/alpha) a scalar or (B, 1, …)."""
        sigma, alpha = (torch.sigmoid(sign * u).sqrt().float() for sign in (2, -2))
        return self.prediction.to_eps(net(z, t).float(), z, alpha, sigma)

    def _flow(self, net: nn.Module) -> ode.Flow:
        def eps(z: Tensor, u: Tensor) -> Tensor:
            return self._eps(net, z, self.sde.time(u).float().expand(len(z)), u)

        return ode.Flow(eps)

    def _scaled(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return x (B, *shape) scaled to [−1, 1] and, if dequantised, uniform in its bin, as a density needs."""
        x_0 = scaled(x, self.spec.levels)
        return x_0 + self._jitter(x, rng) if self.config.dequantise else x_0

    def _jitter(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return self.bin * (torch.rand(x.shape, generator=rng, device=x.device) - 0.5)

    # ---- training ---------------------------------------------------------------------------------------------------

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return lambda(t)·‖score − ∇ln p(x_t|x_0)‖² (B,), with t stratified over the batch.

        Denoising score matching (Vincent 2011) at every t (Song et al. 2021, eq. 7): the best fit, averaged over x_0,
        to ∇ln p(x_t|x_0) = −eps/sigma is the score of the marginal p(x_t).
        """
        x_0 = self._scaled(x, rng)
        t, weight = WEIGHTINGS[self.config.weighting](self.sde, stratified_uniform(len(x), rng, x.device))
        eps = torch.randn(x_0.shape, generator=rng, device=x.device)
        u = append_dims(self.sde.u(t), x_0.ndim)
        sigma, alpha = (torch.sigmoid(sign * u).sqrt().float() for sign in (2, -2))
        z = gaussian.diffuse(x_0, eps, alpha, sigma)  # x_t/sqrt(alpha² + sigma²), x_t ~ q(x_t | x_0)
        dsm = weight * (self._eps(net, z, t.float(), u) - eps).square().flatten(1).sum(1)
        return LossTerms(total=dsm, parts={"dsm": dsm})

    # ---- likelihood -------------------------------------------------------------------------------------------------

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return −ln P(x) by the probability-flow ODE (Song et al. 2021, appendix D.2) and dequantisation.

        P(x) is the mass in the bins of x of the flow's density of x_t/alpha_t at t_min. effort is a number of network
        evaluations, each with a Jacobian product; it determines the number of draws, which is at least one.
        """
        trace, found = TRACES[self.config.trace], [self._log_mass(net, x, rng)]
        draws = max(1, effort // found[0][1])
        found += [self._log_mass(net, x, rng) for _ in range(draws - 1)]
        log_p = trace.combine(torch.stack([log_mass for log_mass, _ in found]))
        kind = "pf-ode" + (f"{trace.suffix}-{draws}" if trace.suffix and draws > 1 else "")
        return Nll(nats=-log_p.float(), kind=kind, nfe=sum(nfe for _, nfe in found))

    def _log_mass(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> tuple[Tensor, int]:
        """Return ln(density · bin volume) (B,) float64 at one point in the bins of x, and the number of evaluations."""
        low, high = self.sde.u_range
        x_0 = (scaled(x, self.spec.levels) + self._jitter(x, rng)).double()
        scale = math.sqrt(1 / (1 + math.exp(2 * low)))  # alpha/sqrt(alpha² + sigma²): z = scale·x_0
        z = scale * x_0
        carried = self._flow(net).carry_density(
            self.config.solver, z, low, high, TRACES[self.config.trace].probes(z, rng)
        )
        prior = torch.distributions.Normal(0.0, self._prior_std_of_z)
        log_p = prior.log_prob(carried.z).flatten(1).sum(1) + carried.log_volume
        return log_p + self.spec.dims * math.log(scale * self.bin), carried.nfe

    @property
    def _prior_std_of_z(self) -> float:
        one = torch.ones(1, dtype=torch.float64)
        return self.sde.prior_std / math.hypot(float(self.sde.alpha(one)), float(self.sde.sigma(one)))

    # ---- sampling and imputation ------------------------------------------------------------------------------------

    @property
    def stepper(self) -> FlowStepper:
        """Return the stepper of all tables of this family."""
        spec = self.spec
        return FlowStepper(spec.shape, spec.levels, self.denoise, prior_std=self.sde.prior_std, solve=self.solve)

    def sampler_tables(self) -> Mapping[str, TableSampler]:
        """Return the samplers, whose tables use this SDE's time."""
        return samplers(self.sde, self.config.steps)

    def imputer_tables(self) -> Mapping[str, TableSampler]:
        """Return RePaint, and predictor-corrector with a fixed known part (Song et al. 2021, appendix I.2)."""
        return imputers(self.sde, self.config.steps)

    def solve(self, net: nn.Module, x: Tensor, rtol: float) -> Tensor:
        """Return x̂_0 (B, *shape) at the end of the flow from x at t = 1 to t_min, solved adaptively to rtol."""
        (low, high), path = self.sde.u_range, self.sde.path(2)
        scale = (path.alpha**2 + path.sigma**2).sqrt().tolist()
        z = self._flow(net).carry(ode.Dopri5(rtol=rtol, atol=rtol), x / scale[0], high, low)
        t, alpha, sigma = (c[1].float().to(x.device).expand(len(x)) for c in (path.t, path.alpha, path.sigma))
        alpha, sigma = append_dims(alpha, x.ndim), append_dims(sigma, x.ndim)
        return self.denoise(net, (scale[1] * z).float(), t, alpha, sigma)[0]
