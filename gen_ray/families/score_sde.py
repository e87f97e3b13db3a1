"""Score-based models in continuous time (Song et al. 2021, arXiv 2011.13456; Song et al. 2021b, arXiv 2101.09258).

A linear SDE turns data into noise; a network that knows the score ∇ln p(x_t) turns noise into data, by the reverse SDE
or by the probability-flow ODE, which also gives an exact density.

The network sees z = x/sqrt(alpha² + sigma²), on which every SDE is variance preserving, and predicts the noise: the
score is −eps/sigma. Its time is t itself, which on VE is linear in ln sigma.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen_ray.config import named
from gen_ray.dataspec import DataSpec
from gen_ray.family import Chain, Family, FamilyConfig, LossTerms, Nll, Sampler, parse_sampler
from gen_ray.maths import gaussian, ode, tables
from gen_ray.maths.kernels import FlowKernel
from gen_ray.maths.levels import scaled
from gen_ray.maths.noise import strata
from gen_ray.maths.sde import Sde
from gen_ray.nets import DenoiserConfig


def _uniform_t(sde: Sde, part: Tensor) -> tuple[Tensor, float]:
    return sde.t_min + (1 - sde.t_min) * part, 1.0


def _uniform_u(sde: Sde, part: Tensor) -> tuple[Tensor, float]:
    low, high = sde.u_range
    return sde.time(low + (high - low) * part), high - low


WEIGHTINGS: Mapping[str, Callable[[Sde, Tensor], tuple[Tensor, float]]] = {"eps": _uniform_t, "likelihood": _uniform_u}
"""Times (B,) for strata (B,) in [0, 1), and the weight of ‖eps − eps_hat‖² there.

``eps`` is lambda = sigma² (Song et al. 2021, section 3.3). ``likelihood`` is lambda = g² (Song et al. 2021b, eq. 9),
t drawn in proportion to g²/sigma² (ibid., section 4.3), which is a uniform u (maths/sde.py): in nats up to a constant.
"""


@dataclass(frozen=True)
class Trace:
    """How the Jacobian's trace is had, and how the densities (draws, B) of dequantised data become one (B,)."""

    probes: Callable[[Tensor, torch.Generator], Tensor]
    combine: Callable[[Tensor], Tensor]
    suffix: str


TRACES: Mapping[str, Trace] = {
    "hutchinson": Trace(ode.random_signs, lambda log_p: log_p.mean(0), ""),
    "exact": Trace(ode.unit_vectors, lambda log_p: log_p.logsumexp(0) - math.log(len(log_p)), "-iw"),
}
"""Importance-weighted dequantisation (Hoogeboom et al. 2020) is a bound for exact densities only: the exponential of an
estimated ln p is too large on average, in the model's favour. So estimated ones are averaged, which is the bound of
uniform dequantisation (Theis et al. 2016) whatever the number of draws."""


Maker = Callable[..., Tensor]
SNR = {"snr": (0.01, 1.0)}
SAMPLERS: Mapping[str, Maker] = {
    "ddim": tables.ddim,
    "dpmpp_2m": tables.dpmpp_2m,
    "heun": tables.heun,
    "pf_ode": tables.pf_ode,
    "adaptive": tables.adaptive,
    "euler_maruyama": tables.euler_maruyama,
    "reverse_diffusion": tables.reverse_diffusion,
    "ancestral": tables.ancestral,
    "pc": tables.reverse_diffusion_pc,
    "pc_ancestral": tables.ancestral_pc,
}
"""Tables by the name of the sampler, which takes the SDE, steps and its options."""
IMPUTERS: Mapping[str, Maker] = {
    "pc": partial(tables.reverse_diffusion_pc, correctors=4, spacing="log_snr"),
    "repaint": partial(tables.repaint, spacing="log_snr"),
}
"""Only near data, where log_snr has its steps, does a replaced part say what it stands for: further out its own noise
hides it, and the rest is completed to a blurred version of what is known. Measured on 960 completions of pairs whose
law is known, 500 evaluations each, p of a two-sample test: 0.6-0.7 with 4 correctors in 100 steps, 0.2-0.4 with 1 in
250, 0.1-0.3 with 9 in 50; 0.1-0.6 by RePaint, and 0.002-0.04 if its steps have the large variance.
"""


def _described(n: int) -> dict[str, Sampler]:
    """Return what there is to know of each of SAMPLERS at n steps of the reverse SDE."""
    fifty, twenty, many = (min(steps, n) for steps in (50, 20, 200))
    said: dict[str, dict[str, Any]] = {
        "ddim": {"default_steps": fifty, "summary": "Song et al. 2021, eq. 12", "options": {"eta": (0.0, 1.0)}},
        "dpmpp_2m": {"default_steps": twenty, "summary": "Lu et al. 2022, alg. 2"},
        "heun": {"default_steps": twenty, "nfe_per_step": 2, "nfe_saved": 1, "summary": "Karras et al. 2022, alg. 1"},
        "pf_ode": {"default_steps": many, "summary": "probability-flow ODE, Song et al. 2021, eq. 13, by Euler"},
        "adaptive": {
            "default_steps": 1,
            "adaptive": True,
            "summary": "Song et al. 2021, eq. 13, by Dormand & Prince 1980, each image in steps of its own",
            "options": {"rtol": (1e-5, 0.01)},
        },
        "euler_maruyama": {"summary": "reverse SDE, Song et al. 2021, eq. 6"},
        "reverse_diffusion": {"summary": "Song et al. 2021, eq. 46"},
        "ancestral": {"summary": "Song et al. 2021, appendix F"},
        "pc": {"nfe_per_step": 2, "summary": "Song et al. 2021, alg. 2-5", "options": SNR},
        "pc_ancestral": {
            "nfe_per_step": 2,
            "summary": "pc with the predictor of Song et al. 2021, appendix F",
            "options": SNR,
        },
    }
    return {name: Sampler(**{"default_steps": n, "nfe_per_step": 1, **about}) for name, about in said.items()}


class ScoreSdeConfig(FamilyConfig):
    """What a score-based model needs to know beyond its data."""

    name: Literal["score_sde"] = "score_sde"
    sde: Annotated[Sde, named("vp")] = Field(default={"name": "vp"}, validate_default=True)
    predict: Literal["eps", "v"] = "eps"
    weighting: Literal["eps", "likelihood"] = "eps"
    dequantise: bool = True
    clip: bool = True
    steps: int = Field(1000, ge=1, le=100_000)
    solver: Annotated[ode.Solver, named("rk4")] = Field(default={"name": "rk4"}, validate_default=True)
    trace: Literal["hutchinson", "exact"] = "hutchinson"
    net: Annotated[DenoiserConfig, named("unet")] = Field(default={"name": "unet"}, validate_default=True)


class ScoreSde(Family):
    """A noise predictor on a linear SDE."""

    Config = ScoreSdeConfig
    config: ScoreSdeConfig

    def __init__(self, config: ScoreSdeConfig, spec: DataSpec) -> None:
        """Bind to images. Raise UserError for other data."""
        super().__init__(config, spec)
        self.require_images()
        self.sde, self.prediction = config.sde, gaussian.PREDICTIONS[config.predict]
        self.bin = 2 / (spec.levels - 1)

    def build_net(self) -> nn.Module:
        """Return net(z (B,C,H,W), t (B,)) -> (B, C, H, W)."""
        return self.config.net.build(self.spec.shape, self.spec.shape[0])

    # ---- the readings of one network evaluation -------------------------------------------------------------------

    def denoise(self, net: nn.Module, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, None]:
        """Return x̂_0 (B, C, H, W), clipped to the range of dequantised data if so configured; no learned variance."""
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
        """Return x (B, *shape) in [−1, 1] and, if dequantised, anywhere in its bin: a density has no atoms."""
        x_0 = scaled(x, self.spec.levels)
        return x_0 + self._jitter(x, rng) if self.config.dequantise else x_0

    def _jitter(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return self.bin * (torch.rand(x.shape, generator=rng, device=x.device) - 0.5)

    # ---- training ---------------------------------------------------------------------------------------------------

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return lambda(t)·‖score − ∇ln p(x_t|x_0)‖² (Song et al. 2021, eq. 7), t stratified over the batch; (B,)."""
        x_0 = self._scaled(x, rng)
        t, weight = WEIGHTINGS[self.config.weighting](self.sde, strata(len(x), rng, x.device))
        eps = torch.randn(x_0.shape, generator=rng, device=x.device)
        u = self.sde.u(t).view(-1, *[1] * len(self.spec.shape))
        sigma, alpha = (torch.sigmoid(sign * u).sqrt().float() for sign in (2, -2))
        z = gaussian.diffuse(x_0, eps, alpha, sigma)  # x_t/sqrt(alpha² + sigma²), x_t ~ q(x_t | x_0)
        dsm = weight * (self._eps(net, z, t.float(), u) - eps).square().flatten(1).sum(1)
        return LossTerms(total=dsm, parts={"dsm": dsm})

    # ---- likelihood -------------------------------------------------------------------------------------------------

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return −ln P(x) by the probability-flow ODE (Song et al. 2021, appendix D.2) and dequantisation.

        P(x) is the mass in x's bins of the density that the flow gives to x_t/alpha_t at t_min. effort counts network
        evaluations, each with a product by the Jacobian: there are as many draws as it pays for, and at least one.
        """
        trace, found = TRACES[self.config.trace], [self._log_mass(net, x, rng)]
        draws = max(1, effort // found[0][1])
        found += [self._log_mass(net, x, rng) for _ in range(draws - 1)]
        log_p = trace.combine(torch.stack([log_mass for log_mass, _ in found]))
        kind = "pf-ode" + (f"{trace.suffix}-{draws}" if trace.suffix and draws > 1 else "")
        return Nll(nats=-log_p.float(), kind=kind, nfe=sum(nfe for _, nfe in found))

    def _log_mass(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> tuple[Tensor, int]:
        """Return ln(density · bin volume) (B,) at one place in the bins of x, float64, and evaluations."""
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

    # ---- sampling and completing ----------------------------------------------------------------------------------

    def samplers(self) -> Mapping[str, Sampler]:
        """Return the samplers that are tables over this SDE's time."""
        return _described(self.config.steps)

    def chain(self, sampler: str, steps: int | None = None) -> Chain:
        """Return the table of a sampler, e.g. ``pc:snr=0.1``."""
        return self._made("sampler", sampler, steps, self.samplers(), SAMPLERS)

    def imputers(self) -> Mapping[str, Sampler]:
        """Return predictor-corrector with the known part held (Song et al. 2021, appendix I.2), and RePaint."""
        few = min(50, self.config.steps)
        return {
            "pc": Sampler(
                default_steps=min(100, self.config.steps),
                nfe_per_step=5,
                summary="Song et al. 2021, appendix I.2; 1 + correctors evaluations a step",
                options=SNR | {"correctors": (1, 20)},
            ),
            "repaint": Sampler(
                default_steps=few,
                nfe_per_step=10,
                nfe_saved=9,
                summary="Lugmayr et al. 2022, alg. 1: every jump of steps walked so many times (nfe per step: times)",
                options={"times": (1, 50), "jump": (1, 1000)},
            ),
        }

    def impute(self, imputer: str, steps: int | None = None) -> Chain:
        """Return the table of an imputer, e.g. ``repaint:times=5,jump=10``."""
        return self._made("imputer", imputer, steps, self.imputers(), IMPUTERS)

    def _made(
        self, what: str, text: str, steps: int | None, known: Mapping[str, Sampler], makers: Mapping[str, Maker]
    ) -> Chain:
        name, options = parse_sampler(text, known, what)
        table = makers[name](self.sde, known[name].default_steps if steps is None else steps, **options)
        return Chain(table, self.kernel)

    @property
    def kernel(self) -> FlowKernel:
        """Return the kernel that walks every one of the tables."""
        spec = self.spec
        return FlowKernel(spec.shape, spec.levels, self.denoise, prior_std=self.sde.prior_std, solve=self.solve)

    def solve(self, net: nn.Module, x: Tensor, rtol: float) -> Tensor:
        """Return x̂_0 (B, *shape) where the flow carries x from t = 1 to t_min, solved adaptively."""
        (low, high), path = self.sde.u_range, self.sde.path(2)
        scale = (path.alpha**2 + path.sigma**2).sqrt().tolist()
        z = self._flow(net).carry(ode.Dopri5(rtol=rtol, atol=rtol), x / scale[0], high, low)
        t, alpha, sigma = (c[1].float().to(x.device).expand(len(x)) for c in (path.t, path.alpha, path.sigma))
        wide = (len(x), *[1] * (x.ndim - 1))
        return self.denoise(net, (scale[1] * z).float(), t, alpha.view(wide), sigma.view(wide))[0]


FAMILY = ScoreSde
