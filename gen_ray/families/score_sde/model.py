"""The score-based family: denoising score matching, densities by the probability flow, and samplers as tables."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.families.score_sde.config import ScoreSdeConfig
from gen_ray.families.score_sde.estimators import TRACES, WEIGHTINGS
from gen_ray.families.score_sde.samplers import imputers, samplers
from gen_ray.family import Family, LossTerms, Nll
from gen_ray.maths import gaussian, ode
from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.features import FeatureBatch, Roles
from gen_ray.maths.gaussian_steppers import FlowStepper
from gen_ray.maths.levels import spacing
from gen_ray.maths.likelihoods import sum_dims
from gen_ray.maths.noise import stratified_uniform
from gen_ray.maths.row_features import features_of
from gen_ray.maths.sampler import TableSampler
from gen_ray.nets import DENOISERS

BIT_SPREAD = 0.15
"""The standard deviation of the points ±1 that stand for a bit: the cells' border is 6.7 of them away."""
LEVEL_SPREAD = 1 / 3
"""The standard deviation of the points that stand for a level, by the distance of the cell's border. With less, t_min
would have to be smaller."""


class ScoreSde(Family):
    """A noise predictor on a linear SDE."""

    Config = ScoreSdeConfig
    config: ScoreSdeConfig

    def __init__(self, config: ScoreSdeConfig, spec: DataSpec) -> None:
        """Store the settings and the data's spec. Raise UserError for data that are neither images nor tables."""
        super().__init__(config, spec)
        self.require_net(config.net, DENOISERS)
        self.features = features_of(spec, BIT_SPREAD, LEVEL_SPREAD)
        self.sde, self.prediction = config.sde, gaussian.PREDICTIONS[config.predict]
        self.bin = spacing(self.features.levels, torch.zeros((), dtype=torch.float64))

    def build_net(self) -> nn.Module:
        """Return net(z (B,C,H,W), t (B,)) -> (B, C, H, W); for tables net((B,3·F), t (B,)) -> (B, output channels)."""
        return self.config.net.build(self.features.input_shape, self.features.output_channels)

    # ---- one network evaluation -------------------------------------------------------------------------------------

    def denoise(
        self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, roles: Roles | None = None
    ) -> tuple[Tensor, None]:
        """Return x̂_0 (B, *shape), clipped to the range of (dequantised) data if configured; no learned variance.

        Given features of x_t are without noise; roles None: all are noisy.
        """
        scale = (alpha * alpha + sigma * sigma).rsqrt()
        z = x_t * scale if roles is None else torch.where(roles.given, x_t, x_t * scale)
        prediction = self._predict(net, z, t, alpha * scale, sigma * scale, roles)
        x_0 = self.prediction.to_x_0(prediction, z, alpha * scale, sigma * scale)
        width = self.bin.to(z) if isinstance(self.bin, Tensor) else self.bin
        edge: Any = 1 + width / 2 * self.config.dequantise
        return x_0.clamp(-edge, edge) if self.config.clip else x_0, None

    def _predict(
        self, net: nn.Module, z: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, roles: Roles | None = None
    ) -> Tensor:
        """Return the prediction (B, *shape) at z = alpha·x_0 + sigma·eps, alpha² + sigma² = 1, and times t (B,)."""
        output = net(self.features.net_input(z, roles), t).float()
        return self.features.prediction(output, z, alpha, sigma, self.prediction)

    def _eps(self, net: nn.Module, z: Tensor, t: Tensor, u: Tensor, roles: Roles | None = None) -> Tensor:
        """Return eps_hat (B, *shape) at z (B, *shape) and times t (B,), u = ln(sigma/alpha) a scalar or (B, 1, …).

        Given features of z are x_0; roles None: all are noisy. eps_hat is 0 at features that are not noisy.
        """
        sigma, alpha = (torch.sigmoid(sign * u).sqrt().float() for sign in (2, -2))
        eps = self.prediction.to_eps(self._predict(net, z, t, alpha, sigma, roles), z, alpha, sigma)
        return eps if roles is None else eps.masked_fill(~roles.noisy, 0.0)

    def _flow(self, net: nn.Module, roles: Roles | None = None) -> ode.Flow:
        def eps(z: Tensor, u: Tensor) -> Tensor:
            return self._eps(net, z, self.sde.time(u).float().expand(len(z)), u, roles)

        return ode.Flow(eps)

    # ---- training ---------------------------------------------------------------------------------------------------

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return lambda(t)·‖score − ∇ln p(x_t|x_0)‖² (B,), with t stratified over the batch.

        Denoising score matching (Vincent 2011) at every t (Song et al. 2021, eq. 7): the best fit, averaged over x_0,
        to ∇ln p(x_t|x_0) = −eps/sigma is the score of the marginal p(x_t).
        """
        batch = self.features.read_for_loss(x, net, rng)
        x_0 = self._points(batch, rng)
        t, weight = WEIGHTINGS[self.config.weighting](self.sde, stratified_uniform(len(x), rng, x.device))
        eps = torch.randn(x_0.shape, generator=rng, device=x.device)
        u = append_dims(self.sde.u(t), x_0.ndim)
        sigma, alpha = (torch.sigmoid(sign * u).sqrt().float() for sign in (2, -2))
        z = batch.seen(gaussian.diffuse(x_0, eps, alpha, sigma))  # x_t/sqrt(alpha² + sigma²), x_t ~ q(x_t | x_0)
        dsm = weight * sum_dims((self._eps(net, z, t.float(), u, batch.roles) - eps).square(), batch.mask)
        return LossTerms(total=dsm, parts={"dsm": dsm})

    def _points(self, batch: FeatureBatch, rng: torch.Generator) -> Tensor:
        """Return the data (B, *shape) of the training loss: points of the values' cells, if dequantised."""
        return self.features.dequantised(batch, rng)[0] if self.config.dequantise else batch.x

    # ---- likelihood -------------------------------------------------------------------------------------------------

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return −ln P(x) by the probability-flow ODE (Song et al. 2021, appendix D.2) and dequantisation.

        P(x) is the mass in the bins of x of the flow's density of x_t/alpha_t at t_min. effort is a number of network
        evaluations, each with a Jacobian product; it determines the number of draws, which is at least one. Missing
        features stay at 0 and are left out of the flow. The nats are not divided by column, because the flow mixes the
        columns: a coordinate of its end point does not belong to one column of the data.
        """
        trace, batch = TRACES[self.config.trace], self.features.read(x)
        found = [self._log_mass(net, batch, rng)]
        draws = max(1, effort // found[0][1])
        found += [self._log_mass(net, batch, rng) for _ in range(draws - 1)]
        log_p = trace.combine(torch.stack([log_mass for log_mass, _ in found]))
        kind = "pf-ode" + (f"{trace.suffix}-{draws}" if trace.suffix and draws > 1 else "")
        return Nll(nats=-log_p.float(), kind=kind + batch.suffix, nfe=sum(nfe for _, nfe in found))

    def _log_mass(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator) -> tuple[Tensor, int]:
        """Return ln p(x_0) − ln q(x_0|u) (B,) float64 at a point x_0 ~ q(x_0|u), and the number of evaluations."""
        (low, high), mask = self.sde.u_range, batch.mask
        x_0, minus_log_q = (part.double() for part in self.features.dequantised(batch, rng))
        scale = math.sqrt(1 / (1 + math.exp(2 * low)))  # alpha/sqrt(alpha² + sigma²): z = scale·x_0
        z, probes = scale * x_0, TRACES[self.config.trace].probes(x_0, rng)
        if mask is not None:
            z, probes = z.masked_fill(~mask, 0.0), probes.masked_fill(~mask, 0.0)
        carried = self._flow(net, batch.roles).carry_density(self.config.solver, z, low, high, probes)
        prior = torch.distributions.Normal(0.0, self._prior_std_of_z)
        log_p = sum_dims(prior.log_prob(carried.z) + minus_log_q + math.log(scale), mask) + carried.log_volume
        return log_p, carried.nfe

    @property
    def _prior_std_of_z(self) -> float:
        one = torch.ones(1, dtype=torch.float64)
        return self.sde.prior_std / math.hypot(float(self.sde.alpha(one)), float(self.sde.sigma(one)))

    # ---- sampling and imputation ------------------------------------------------------------------------------------

    @property
    def stepper(self) -> FlowStepper:
        """Return the stepper of all tables of this family."""
        return FlowStepper(self.features, self.denoise, prior_std=self.sde.prior_std, solve=self.solve)

    def sampler_tables(self) -> Mapping[str, TableSampler]:
        """Return the samplers, whose tables use this SDE's time."""
        return samplers(self.sde, self.config.steps)

    def imputer_tables(self) -> Mapping[str, TableSampler]:
        """Return RePaint, and predictor-corrector with a fixed known part (Song et al. 2021, appendix I.2).

        For tables the imputers are the samplers, because a net of rows reads known values without noise (Tashiro et al.
        2021, CSDI, arXiv 2107.03502); only the adaptive solution of the whole flow starts without a known part.
        """
        if self.spec.is_table:
            return {name: one for name, one in self.sampler_tables().items() if not one.about.adaptive}
        return imputers(self.sde, self.config.steps)

    def solve(self, net: nn.Module, x: Tensor, rtol: float) -> Tensor:
        """Return x̂_0 (B, *shape) at the end of the flow from x at t = 1 to t_min, solved adaptively to rtol."""
        (low, high), path = self.sde.u_range, self.sde.path(2)
        scale = (path.alpha**2 + path.sigma**2).sqrt().tolist()
        z = self._flow(net).carry(ode.Dopri5(rtol=rtol, atol=rtol), x / scale[0], high, low)
        t, alpha, sigma = (c[1].float().to(x.device).expand(len(x)) for c in (path.t, path.alpha, path.sigma))
        alpha, sigma = append_dims(alpha, x.ndim), append_dims(sigma, x.ndim)
        return self.denoise(net, (scale[1] * z).float(), t, alpha, sigma)[0]
