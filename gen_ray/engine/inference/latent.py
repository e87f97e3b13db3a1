"""Operations in a latent space: encoding, reconstruction, interpolation between instances, the map of a plane.

Shapes: N instances, Z latent dimensions, S draws.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen_ray.engine.inference import memory
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.chunks import chunks
from gen_ray.errors import UserError
from gen_ray.family import SupportsLatent
from gen_ray.maths import likelihoods
from gen_ray.maths.noise import generator

BATCH_ROWS = 256
"""Instances per forward of the encoder or decoder."""
REFINED_AT_ONCE = 500
"""Instances whose posteriors are refined in one group, with DRAWS_PER_STEP draws each, and gradients."""
LEARNING_RATE = 0.05
DRAWS_PER_STEP = 16
"""Draws of z per instance and optimizer step."""
EVALUATION_DRAWS = 128
"""Draws of z per instance for the final estimate of both ELBOs."""


@dataclass(frozen=True, kw_only=True)
class LatentPosterior:
    """q(z|x) = N(mu, diag e^log_var), both (N, Z)."""

    mu: Tensor
    log_var: Tensor

    def at(self, eps: Tensor) -> Tensor:
        """Return z = mu + sigma·eps for eps (…, N, Z)."""
        return self.mu + (self.log_var / 2).exp() * eps

    def kl(self) -> Tensor:
        """Return KL(q(z|x) ‖ N(0, I)), nats (N,)."""
        return likelihoods.standard_normal_kl(self.mu, self.log_var).sum(1)


@dataclass(frozen=True, kw_only=True)
class RefinedPosterior:
    """Posteriors optimised for each instance, and the ELBO gained by that (N,), nats, with its standard error (N,)."""

    posterior: LatentPosterior
    gap_nats: Tensor
    gap_standard_error: Tensor
    elbo_nats: Tensor


def latent_family(model: Model) -> SupportsLatent:
    """Return the family as a latent-variable model. Raise UserError where it has no latent space."""
    if not isinstance(model.family, SupportsLatent):
        name = model.experiment.family.name
        raise UserError(f"{name}: has no latent space to encode into; choose a model of a family that has one: vae")
    return model.family


@torch.no_grad()
def encode(model: Model, x: Tensor, *, seed: int = 0, device: torch.device) -> LatentPosterior:
    """Return the amortised posteriors of stored data x (N, *shape)."""
    latent = latent_family(model)
    observed = _observed(latent, x, seed, device)
    posteriors = [latent.encode(model.net, part) for part in observed.split(BATCH_ROWS)]
    mu, log_var = (torch.cat(parts).float() for parts in zip(*posteriors, strict=True))
    return LatentPosterior(mu=mu, log_var=log_var)


@torch.no_grad()
def decode(model: Model, z: Tensor) -> Tensor:
    """Return the mean of p(x|z) as levels (N, *shape) on the CPU for z (N, Z)."""
    latent = latent_family(model)
    return torch.cat([latent.decode(model.net, part).cpu() for part in z.split(BATCH_ROWS)])


def refine(model: Model, x: Tensor, *, steps: int, seed: int = 0, device: torch.device) -> RefinedPosterior:
    """Optimise the posterior of each instance of x (N, *shape), starting from the amortised one.

    Adam maximises each instance's own ELBO over (mu, log_var) with new draws at each step; a cosine schedule lowers its
    rate to 0. Both ELBOs are then estimated from the same further draws; their difference is the amortisation gap
    (Cremer et al. 2018, eq. 4).
    """
    latent, start = latent_family(model), encode(model, x, seed=seed, device=device)
    observed = _observed(latent, x, seed, device)
    parts = []
    for first, end in chunks(len(x), REFINED_AT_ONCE):
        amortised = LatentPosterior(mu=start.mu[first:end], log_var=start.log_var[first:end])
        rngs = [generator(seed, draw, first, device=device) for draw in (1, 2)]
        parts.append(_refined(latent, model.net, observed[first:end], amortised, steps, *rngs))
    return RefinedPosterior(
        posterior=LatentPosterior(
            mu=torch.cat([part.posterior.mu for part in parts]),
            log_var=torch.cat([part.posterior.log_var for part in parts]),
        ),
        gap_nats=torch.cat([part.gap_nats for part in parts]),
        gap_standard_error=torch.cat([part.gap_standard_error for part in parts]),
        elbo_nats=torch.cat([part.elbo_nats for part in parts]),
    )


def _refined(
    latent: SupportsLatent,
    net: nn.Module,
    observed: Tensor,
    start: LatentPosterior,
    steps: int,
    rng: torch.Generator,
    evaluation_rng: torch.Generator,
) -> RefinedPosterior:
    """Return the refined posteriors of one group of instances; both ELBOs are estimated from the same draws."""
    refined = LatentPosterior(mu=start.mu.clone().requires_grad_(), log_var=start.log_var.clone().requires_grad_())
    optimizer = torch.optim.Adam([refined.mu, refined.log_var], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        elbo = _elbo_draws(latent, net, observed, refined, DRAWS_PER_STEP, rng).mean(0)
        (-elbo.sum()).backward()
        optimizer.step()
        schedule.step()
    final, state = LatentPosterior(mu=refined.mu.detach(), log_var=refined.log_var.detach()), evaluation_rng.get_state()
    with torch.no_grad():
        before = _elbo_draws(latent, net, observed, start, EVALUATION_DRAWS, evaluation_rng)
        after = _elbo_draws(latent, net, observed, final, EVALUATION_DRAWS, evaluation_rng.set_state(state))
    gap = (after - before).double().unflatten(0, (-1, 2)).mean(1)  # pairs (eps, −eps) are one draw
    error = gap.std(0) / math.sqrt(len(gap))
    return RefinedPosterior(
        posterior=final, gap_nats=gap.mean(0), gap_standard_error=error, elbo_nats=after.double().mean(0)
    )


def interpolate(model: Model, x: Tensor, *, steps: int, seed: int = 0, device: torch.device) -> Tensor:
    """Return for each pair of neighbours in x (N, *shape) the images along the line between their means.

    The result has shape (N−1, steps, *shape), levels.
    """
    n = (len(x) - 1) * steps
    memory.require(n * 20 * model.spec.dims, f"{n:,} images", "ask for fewer steps, or for fewer instances")
    mu = encode(model, x, seed=seed, device=device).mu
    share = torch.linspace(0, 1, steps, device=mu.device)[None, :, None]
    path = (1 - share) * mu[:-1, None] + share * mu[1:, None]
    return decode(model, path.flatten(0, 1)).view(len(x) - 1, steps, *x.shape[1:])


def manifold(model: Model, *, side: int, device: torch.device) -> Tensor:
    """Return side × side images (side², *shape): a plane of z at equal steps of probability (Kingma & Welling, fig. 4).

    The second coordinate decreases from row to row; the first increases from column to column. Raise UserError unless
    Z = 2.
    """
    latent = latent_family(model)
    if latent.latent_dim != 2:
        raise UserError(f"the map of the latent plane needs family.latent_dim=2; this model has {latent.latent_dim}")
    coordinates = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).float().to(device)
    z = torch.cartesian_prod(coordinates.flip(0), coordinates).flip(1)  # (first coordinate, second)
    return decode(model, z)


def _observed(latent: SupportsLatent, x: Tensor, seed: int, device: torch.device) -> Tensor:
    return latent.observe(x.to(device), generator(seed, device=device))


def _elbo_draws(
    latent: SupportsLatent, net: nn.Module, observed: Tensor, q: LatentPosterior, draws: int, rng: torch.Generator
) -> Tensor:
    """Return log p(x|z) − KL(q ‖ prior) at antithetic draws of z (eps, then −eps), (S, N)."""
    elbos = []
    for _ in range(draws // DRAWS_PER_STEP):
        half = torch.randn((DRAWS_PER_STEP // 2, *q.mu.shape), generator=rng, device=q.mu.device)
        z = q.at(torch.stack([half, -half], 1).flatten(0, 1))  # (DRAWS_PER_STEP, N, Z)
        repeated = observed.expand(len(z), *observed.shape).flatten(0, 1)
        elbos.append(latent.log_likelihood(net, repeated, z.flatten(0, 1)).view(len(z), -1) - q.kl())
    return torch.cat(elbos)
