"""The variational autoencoder, trained by auto-encoding variational Bayes (Kingma & Welling 2014, arXiv 1312.6114).

p(x, z) = p(x|z) N(z; 0, I), q(z|x) = N(mu(x), diag sigma²(x)); z = mu + sigma·eps, eps ~ N(0, I).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gen_ray.configuration.base import named
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.family import Family, FamilyConfig, LossTerms, Nll
from gen_ray.maths import likelihoods
from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.chain import Known, State
from gen_ray.maths.levels import stored
from gen_ray.maths.noise import RowNoise
from gen_ray.maths.observation import OBSERVATIONS, Observation
from gen_ray.maths.sampler import Sampler, TableSampler
from gen_ray.nets import Autoencoder, AutoencoderConfig

MAX_STEPS = 100_000
"""The largest number of steps of an imputer."""


class VaeConfig(FamilyConfig):
    """The settings of a VAE."""

    loss_is_bound: ClassVar[bool] = True

    name: Literal["vae"] = "vae"
    latent_dim: int = Field(20, ge=1, le=65536, description="number of latent variables")
    likelihood: Literal["bernoulli", "logistic", "categorical"] = Field("logistic", description="p(x|z) of a pixel")
    binarise: Literal["static", "dynamic"] | None = Field(
        None,
        description="static: 1 above the middle grey level; dynamic: 1 with the grey level as probability",
    )
    kl_warmup_steps: int = Field(0, ge=0, le=10**9, description="steps in which the weight of the KL term rises to 1")
    net: Annotated[AutoencoderConfig, named("mlp")] = Field(
        default={"name": "mlp"}, validate_default=True, description="encoder and decoder"
    )

    @property
    def modelled_values(self) -> str:
        """Return ``stored``, ``static binary`` or ``dynamic binary``."""
        return f"{self.binarise} binary" if self.binarise else "stored"

    @model_validator(mode="after")
    def _binary_together(self) -> "VaeConfig":
        if (self.likelihood, self.binarise) not in OBSERVATIONS:
            raise ValueError("likelihood=bernoulli needs binarise=static or dynamic; binarise has no effect otherwise")
        return self


@dataclass(frozen=True)
class DecodeStepper:
    """The update of a VAE: optionally move z, then set x to the mean of p(x|z) or a draw; the known part is fixed.

    A table row is (draw, move, correct), each 0 or 1. draw: set x to a draw from p(x|z), not to the mean. move: propose
    z' ~ q(z|x) for the current completion x (Rezende et al. 2014, section 4.2). correct: accept z' with the probability
    that makes p(x_missing | x_known) stationary for every encoder (Mattei & Frellsen 2018, algorithm 1). Without move,
    z does not change; it starts as z ~ N(0, I).
    """

    latent_dim: int
    shape: tuple[int, ...]
    observation: Observation

    def start(self, noise: RowNoise, device: torch.device, known: Known | None = None) -> State:
        """Return the initial state: z ~ N(0, I) (B, Z), and the known part as p(x|z) models it."""
        x = torch.zeros(noise.batch, *self.shape, device=device)
        values, seen, mask = x, x, torch.zeros_like(x, dtype=torch.bool)
        if known is not None:
            values, mask = known.known.to(device), known.mask.to(device)
            seen = self.observation.seen(values, noise.uniform(self.shape, device=device)).to(x)
        params = torch.zeros(noise.batch, self.observation.out_channels, *self.shape[1:], device=device)
        z = noise.normal((self.latent_dim,), device=device)
        return {"z": z, "params": params, "x": x, "seen": seen, "known": values, "mask": mask}

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Advance by one decoder evaluation, and one encoder evaluation if any row moves; rows (B, 3)."""
        drawn, moving, corrected = (rows[:, column].cpu() > 0 for column in range(3))
        z, params, device = state["z"], state["params"], state["z"].device
        # u: D uniforms for the draw and one more for the acceptance
        u = noise.uniform((math.prod(self.shape) + 1,), where=drawn, device=device)
        proposed, mu, log_var = z, z, z
        if moving.any():
            mu, log_var = cast(Autoencoder, net).encode(self.observation.scaled(state["seen"]))
            eps = noise.normal((self.latent_dim,), where=moving, device=device)
            proposed = _where(moving, mu + (log_var / 2).exp() * eps, z)
        decoded = cast(Autoencoder, net).decode(proposed)
        if corrected.any():
            new, old = (self._log_weight(state["seen"], *at, mu, log_var) for at in ((proposed, decoded), (z, params)))
            accepted = ~corrected.to(device) | (u[:, -1] < (new - old).exp())
            proposed, decoded = _where(accepted, proposed, z), _where(accepted, decoded, params)
        return {**state, "z": proposed, "params": decoded, **self._complete(state, decoded, drawn, u[:, :-1])}

    def _log_weight(self, seen: Tensor, z: Tensor, params: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        """Return log p(x, z) − log q(z|x) up to terms that do not depend on z, (B,) float64."""
        log_likelihood = self.observation.log_prob(seen, params).flatten(1).double().sum(1)
        return log_likelihood + 0.5 * ((z - mu) ** 2 * (-log_var).exp() - z**2).double().sum(1)

    def _complete(self, state: State, params: Tensor, drawn: Tensor, u: Tensor) -> State:
        """Return x from p(x|z), and the encoder's input ``seen``: known values, and x where they are missing."""
        x = self.observation.mean(params)
        if drawn.any():
            sample = self.observation.draw(params, u.reshape(-1, *self.shape))
            x = _where(drawn, sample.to(x.dtype), x)
        seen = self.observation.seen(x, torch.full((), 0.5, device=x.device)).to(state["seen"].dtype)
        return {"x": x, "seen": torch.where(state["mask"], state["seen"], seen)}

    def finish(self, state: State) -> Tensor:
        """Return levels (B, C, H, W), uint8 up to 256 levels, else int32."""
        known, x = (stored(state[key], self.observation.levels) for key in ("known", "x"))
        return torch.where(state["mask"], known, x)

    def preview(self, state: State) -> Tensor:
        """Return the current completion (B, C, H, W)."""
        return self.finish(state)


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return (B, …): the rows of yes where rows (B,) is True, else those of no."""
    return torch.where(append_dims(rows.to(yes.device), yes.ndim), yes, no)


def _decode(name: str, steps: int, draw: int) -> Tensor:
    """Return the table (1, 3) of a sampler, which has one row. Raise UserError for other numbers of steps."""
    if steps != 1:
        raise UserError(f"steps: has no effect for vae: {name} takes one network evaluation (leave it out)")
    return torch.tensor([(draw, 0, 0)], dtype=torch.float64)


def _reconstruct(name: str, n: int, free: int) -> Tensor:
    """Return the table (n, 3) of an imputer: the first row decodes z ~ N(0, I), the others encode and decode.

    The rows after the first ``free`` are corrected. Raise UserError for steps out of range.
    """
    if not 1 <= n <= MAX_STEPS:
        raise UserError(f"steps: imputer {name} takes 1 … {MAX_STEPS}, not {n}")
    return torch.tensor([(1, int(row > 0), int(row > free)) for row in range(n)], dtype=torch.float64)


class Vae(Family):
    """The VAE family: AEVB with an analytic KL; likelihoods by importance sampling (Burda et al. 2016)."""

    Config = VaeConfig
    config: VaeConfig

    def __init__(self, config: VaeConfig, spec: DataSpec) -> None:
        """Select p(x|z) by the settings. Raise UserError for data that are not images."""
        super().__init__(config, spec)
        self.require_images()
        self.observation = OBSERVATIONS[config.likelihood, config.binarise](spec.levels, spec.shape[0])

    def build_net(self) -> nn.Module:
        """Return an Autoencoder: net(x, eps) -> mu (B, Z), log_var (B, Z), params (B, P, H, W)."""
        return self.config.net.build(self.spec.shape, self.config.latent_dim, self.observation.out_channels)

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return −ELBO = E_q[−log p(x|z)] + w·KL(q(z|x) ‖ N(0, I)) (B,); w rises to 1 over kl_warmup_steps."""
        reconstruction, kl = self._elbo_terms(net, x, rng)
        weight = min(1.0, (step + 1) / self.config.kl_warmup_steps) if self.config.kl_warmup_steps else 1.0
        parts = {"reconstruction_nats": reconstruction, "kl_nats": kl}
        return LossTerms(total=reconstruction + weight * kl, parts=parts)

    def _elbo_terms(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x = self.observation.prepare(x, rng)
        eps = torch.randn((len(x), self.config.latent_dim), generator=rng, device=x.device)
        mu, log_var, params = net(self.observation.scaled(x), eps)
        reconstruction = -self.observation.log_prob(x, params.float()).flatten(1).sum(1)
        return reconstruction, likelihoods.standard_normal_kl(mu.float(), log_var.float()).sum(1)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return −ELBO with the analytic KL for effort 1, else the importance-weighted bound with ``effort`` draws.

        That bound is −log (1/k) Σ_i p(x, z_i)/q(z_i|x), z_i ~ q(z|x), k = effort (Burda et al. 2016, eq. 8). Both are
        (B,) nats.
        """
        if effort == 1:
            reconstruction, kl = self._elbo_terms(net, x, rng)
            parts = {"reconstruction": reconstruction, "kl": kl}
            return Nll(nats=reconstruction + kl, kind="elbo" + self.observation.suffix, nfe=1, parts=parts)
        x = self.observation.prepare(x, rng)
        mu, log_var = cast(Autoencoder, net).encode(self.observation.scaled(x))
        log_w = [self._log_weight(net, x, mu, log_var, rng) for _ in range(effort)]
        nats = math.log(effort) - torch.stack(log_w).logsumexp(0)
        return Nll(nats=nats, kind=f"iwae-{effort}{self.observation.suffix}", nfe=effort)

    def _log_weight(self, net: nn.Module, x: Tensor, mu: Tensor, log_var: Tensor, rng: torch.Generator) -> Tensor:
        """Return log p(x, z) − log q(z|x) at one z ~ q(z|x), (B,); the constants of the two normals cancel."""
        eps = torch.randn(mu.shape, generator=rng, device=mu.device)
        z = mu + (log_var / 2).exp() * eps
        log_likelihood = self.observation.log_prob(x, cast(Autoencoder, net).decode(z)).flatten(1).sum(1)
        return log_likelihood + (0.5 * (eps**2 + log_var - z**2)).sum(1)

    @property
    def stepper(self) -> DecodeStepper:
        """Return the stepper of all tables of this family."""
        return DecodeStepper(self.config.latent_dim, self.spec.shape, self.observation)

    def sampler_tables(self) -> Mapping[str, TableSampler]:
        """Return ``mean`` (the samples usually shown in papers) and ``draw`` (true samples of the model)."""

        def one(name: str, draw: int, x: str) -> TableSampler:
            summary = f"Kingma & Welling 2014: z ~ N(0, I), then {x}"
            return TableSampler(
                Sampler(default_steps=1, nfe_per_step=1, summary=summary), lambda steps: _decode(name, steps, draw)
            )

        return {"mean": one("mean", 0, "the mean of p(x|z)"), "draw": one("draw", 1, "x ~ p(x|z)")}

    def imputer_tables(self) -> Mapping[str, TableSampler]:
        """Return ``metropolis`` (exact in the limit of many steps) and ``gibbs`` (exact only if q(z|x) is exact)."""
        metropolis = Sampler(
            default_steps=200,
            nfe_per_step=1,
            summary="Mattei & Frellsen 2018, alg. 1: gibbs, corrected after a fifth of the steps",
        )
        gibbs = Sampler(
            default_steps=100,
            nfe_per_step=1,
            summary="Rezende et al. 2014, section 4.2: encode, decode, draw the missing part",
        )
        return {
            "metropolis": TableSampler(metropolis, lambda n: _reconstruct("metropolis", n, free=n // 5)),
            "gibbs": TableSampler(gibbs, lambda n: _reconstruct("gibbs", n, free=n)),
        }

    # ---- the latent space (gen_ray.family.SupportsLatent) -----------------------------------------------------------

    @property
    def latent_dim(self) -> int:
        """Return Z."""
        return self.config.latent_dim

    def observe(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the data (B, C, H, W) that p(x|z) models, for stored data x (B, C, H, W)."""
        return self.observation.prepare(x, rng)

    def encode(self, net: nn.Module, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log_var of q(z|x), each (B, Z)."""
        return cast(Autoencoder, net).encode(self.observation.scaled(observed))

    def decode(self, net: nn.Module, z: Tensor) -> Tensor:
        """Return the mean of p(x|z) as levels (B, C, H, W), uint8 up to 256 levels, else int32."""
        return stored(self.observation.mean(cast(Autoencoder, net).decode(z)), self.observation.levels)

    def log_likelihood(self, net: nn.Module, observed: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z), nats (B,)."""
        params = cast(Autoencoder, net).decode(z).float()
        return self.observation.log_prob(observed, params).flatten(1).sum(1)


FAMILY = Vae
