"""Variational autoencoder by auto-encoding variational Bayes (Kingma & Welling 2014, arXiv 1312.6114).

p(x, z) = p(x|z) N(z; 0, I), q(z|x) = N(mu(x), diag sigma²(x)); z = mu + sigma·eps, eps ~ N(0, I).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gen_ray.config import named
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.family import Chain, Family, FamilyConfig, LossTerms, Nll, Sampler, State, parse_sampler
from gen_ray.maths import likelihoods
from gen_ray.maths.noise import RowNoise
from gen_ray.maths.observation import OBSERVATIONS, Observation
from gen_ray.nets import Autoencoder, AutoencoderConfig


class VaeConfig(FamilyConfig):
    """What a VAE needs to know beyond its data."""

    name: Literal["vae"] = "vae"
    latent_dim: int = Field(20, ge=1, le=65536)
    likelihood: Literal["bernoulli", "logistic", "categorical"] = "logistic"
    binarise: Literal["static", "dynamic"] | None = None
    kl_warmup_steps: int = Field(0, ge=0)
    net: Annotated[AutoencoderConfig, named("mlp")] = Field(default={"name": "mlp"}, validate_default=True)

    @model_validator(mode="after")
    def _binary_together(self) -> "VaeConfig":
        if (self.likelihood, self.binarise) not in OBSERVATIONS:
            raise ValueError("likelihood=bernoulli needs binarise=static or dynamic; binarise has no effect otherwise")
        return self


@dataclass(frozen=True)
class DecodeKernel:
    """One evaluation: z ~ N(0, I), then the mean of p(x|z) where the row says 0, a draw from it where it says 1."""

    latent_dim: int
    shape: tuple[int, ...]
    observation: Observation

    def start(self, noise: RowNoise, device: torch.device) -> State:
        """Draw z ~ N(0, I), (B, Z)."""
        return {"z": noise.normal((self.latent_dim,), device=device)}

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Decode; rows (B, 1)."""
        params = cast(Autoencoder, net).decode(state["z"])
        drawn = rows[:, 0] > 0
        x = self.observation.mean(params)
        if drawn.any():
            u = noise.uniform(self.shape, where=drawn, device=params.device)
            sample = self.observation.draw(params, u.to(params.dtype)).to(x.dtype)
            x = torch.where(drawn.to(x.device).view(-1, 1, 1, 1), sample, x)
        return {"z": state["z"], "x": x}

    def finish(self, state: State) -> Tensor:
        """Return levels (B, C, H, W), uint8 up to 256 of them, else int32."""
        return state["x"].to(torch.uint8 if self.observation.levels <= 256 else torch.int32)


class Vae(Family):
    """AEVB with an analytic KL; the likelihood of x by importance sampling (Burda et al. 2016)."""

    Config = VaeConfig
    config: VaeConfig

    def __init__(self, config: VaeConfig, spec: DataSpec) -> None:
        """Choose p(x|z). Raise UserError for data that are not images."""
        super().__init__(config, spec)
        if not spec.is_image:
            raise UserError(f"family.name: vae models images; {spec.name} holds {spec.kind} (use discrete)")
        self.observation = OBSERVATIONS[config.likelihood, config.binarise](spec.levels, spec.shape[0])

    def build_net(self) -> nn.Module:
        """Return an Autoencoder: net(x, eps) -> mu (B, Z), log_var (B, Z), params (B, P, H, W)."""
        return self.config.net.build(self.spec.shape, self.config.latent_dim, self.observation.out_channels)

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return −ELBO = E_q[−log p(x|z)] + w·KL(q(z|x) ‖ N(0, I)), w rising to 1 over kl_warmup_steps (B,)."""
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
        """Return −ELBO with the analytic KL for effort 1, else the importance-weighted bound with effort draws.

        −log (1/k) Σ_i p(x, z_i)/q(z_i|x), z_i ~ q(z|x) (Burda et al. 2016, eq. 8).
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

    def samplers(self) -> Mapping[str, Sampler]:
        """Return ``mean`` (what the papers show) and ``draw`` (a true sample of the model)."""
        return {
            "mean": Sampler(default_steps=1, nfe_per_step=1, summary="z ~ N(0, I), then the mean of p(x|z)"),
            "draw": Sampler(default_steps=1, nfe_per_step=1, summary="z ~ N(0, I), then x ~ p(x|z)"),
        }

    def chain(self, sampler: str, steps: int | None = None) -> Chain:
        """Return the one-row table of a sampler."""
        name, _ = parse_sampler(sampler, self.samplers())
        if steps not in (None, 1):
            raise UserError(f"steps: has no effect for vae: {name} takes one network evaluation (leave it out)")
        table = torch.tensor([[list(self.samplers()).index(name)]], dtype=torch.float64)  # 0 mean, 1 draw
        return Chain(table, DecodeKernel(self.config.latent_dim, self.spec.shape, self.observation))


FAMILY = Vae
