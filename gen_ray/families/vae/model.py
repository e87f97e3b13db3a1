"""The VAE family: AEVB with an analytic KL, likelihoods by importance sampling, samplers and imputers."""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.families.vae.config import VaeConfig
from gen_ray.families.vae.stepper import DecodeStepper
from gen_ray.family import Family, LossTerms, Nll
from gen_ray.maths import likelihoods
from gen_ray.maths.row_observation import observation_of
from gen_ray.maths.sampler import Sampler, TableSampler
from gen_ray.nets import AUTOENCODERS, Autoencoder

MAX_STEPS = 100_000
"""The largest number of steps of an imputer."""


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
        """Select p(x|z) by the settings. Raise UserError for data that are neither images nor tables."""
        super().__init__(config, spec)
        self.require_net(config.net, AUTOENCODERS)
        self.observation = observation_of(spec, config.likelihood, config.binarise)

    def build_net(self) -> nn.Module:
        """Return an Autoencoder: net(x, eps) -> mu (B, Z), log_var (B, Z), params (B, P, H, W); (B, P) for tables."""
        shape = self.observation.input_shape(self.spec.shape)
        return self.config.net.build(shape, self.config.latent_dim, self.observation.out_channels)

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return −ELBO = E_q[−log p(x|z)] + w·KL(q(z|x) ‖ N(0, I)) (B,); w rises to 1 over kl_warmup_steps."""
        reconstruction, kl = self._elbo_terms(net, self.observation.prepare_for_loss(x, net, rng), rng)
        weight = min(1.0, (step + 1) / self.config.kl_warmup_steps) if self.config.kl_warmup_steps else 1.0
        parts = {"reconstruction_nats": reconstruction, "kl_nats": kl}
        return LossTerms(total=reconstruction + weight * kl, parts=parts)

    def _elbo_terms(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return −log p(x|z) at one z ~ q(z|x) and KL(q(z|x) ‖ N(0, I)), each (B,), for prepared data x."""
        eps = torch.randn((len(x), self.config.latent_dim), generator=rng, device=x.device)
        mu, log_var, params = net(self.observation.scaled(x), eps)
        reconstruction = -self.observation.log_prob(x, params.float()).flatten(1).sum(1)
        return reconstruction, likelihoods.standard_normal_kl(mu.float(), log_var.float()).sum(1)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return −ELBO with the analytic KL for effort 1, else the importance-weighted bound with ``effort`` draws.

        That bound is −log (1/k) Σ_i p(x, z_i)/q(z_i|x), z_i ~ q(z|x), k = effort (Burda et al. 2016, eq. 8). Both are
        (B,) nats. Where values are missing, x are the observed ones, on which q is conditioned (MIWAE: Mattei &
        Frellsen 2019, arXiv 1812.02633, eq. 4). The nats are not divided by column, because the columns share the KL.
        """
        x = self.observation.prepare(x, rng)
        suffix = self.observation.kind_suffix(x)
        if effort == 1:
            reconstruction, kl = self._elbo_terms(net, x, rng)
            parts = {"reconstruction": reconstruction, "kl": kl}
            return Nll(nats=reconstruction + kl, kind=f"elbo{suffix}", nfe=1, parts=parts)
        mu, log_var = cast(Autoencoder, net).encode(self.observation.scaled(x))
        log_w = [self._log_weight(net, x, mu, log_var, rng) for _ in range(effort)]
        nats = math.log(effort) - torch.stack(log_w).logsumexp(0)
        return Nll(nats=nats, kind=f"iwae-{effort}{suffix}", nfe=effort)

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
        """Return ``mean`` (the samples usually shown in papers) and ``draw`` (true samples of the model).

        For tables ``draw`` is the default, because means and most frequent categories have wrong distributions.
        """

        def one(name: str, draw: int, x: str) -> TableSampler:
            summary = f"Kingma & Welling 2014: z ~ N(0, I), then {x}"
            return TableSampler(
                Sampler(default_steps=1, nfe_per_step=1, summary=summary), lambda steps: _decode(name, steps, draw)
            )

        samplers = {"mean": one("mean", 0, "the mean of p(x|z)"), "draw": one("draw", 1, "x ~ p(x|z)")}
        return dict(reversed(samplers.items())) if self.spec.is_table else samplers

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
        """Return the data (B, *shape) that p(x|z) models, for stored data x (B, *shape)."""
        return self.observation.prepare(x, rng)

    def encode(self, net: nn.Module, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log_var of q(z|x), each (B, Z)."""
        return cast(Autoencoder, net).encode(self.observation.scaled(observed))

    def decode(self, net: nn.Module, z: Tensor) -> Tensor:
        """Return the mean of p(x|z) as stored data (B, *shape)."""
        return self.observation.stored(self.observation.mean(cast(Autoencoder, net).decode(z)))

    def log_likelihood(self, net: nn.Module, observed: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z), nats (B,)."""
        params = cast(Autoencoder, net).decode(z).float()
        return self.observation.log_prob(observed, params).flatten(1).sum(1)
