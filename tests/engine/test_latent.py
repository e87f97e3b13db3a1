"""The latent space of a model with a known posterior: refinement finds it and closes the amortisation gap."""

import math

import pytest
import torch
from torch import nn

from gen_ray.engine.inference import latent
from gen_ray.engine.inference.artifact import Model
from gen_ray.errors import UserError
from gen_ray.family import SupportsLatent
from tests.engine.tiny_models import CPU, images, model
from tests.families import test_vae_oracle as oracle


def linear(net: nn.Module) -> Model:
    """Return a model: the linear Gaussian VAE with the given net."""
    toy = model("vae")
    return Model(experiment=toy.experiment, family=oracle.family(), net=net.requires_grad_(False), meta={})


def test_refinement_finds_the_exact_posterior_and_closes_the_amortisation_gap() -> None:
    x = oracle.data(6)
    now = linear(oracle.sloppy())
    better = latent.refine(now, x, steps=500, device=CPU)
    A, log_var = oracle.posterior()
    mu = (x.flatten(1) - oracle.B) @ A.T
    torch.testing.assert_close(better.posterior.mu, mu, rtol=0, atol=0.03)
    torch.testing.assert_close(better.posterior.log_var, log_var.expand_as(mu), rtol=0, atol=0.12)
    gap = (oracle.evidence(x) - oracle.elbo(oracle.sloppy(), x)).detach().double()  # KL(q ‖ p)
    assert ((better.gap_nats - gap).abs() < 4 * better.gap_standard_error + 0.01).all()
    assert (better.gap_nats > 0).all()
    torch.testing.assert_close(better.elbo_nats, oracle.evidence(x).double(), rtol=0, atol=0.3)


def test_an_exact_encoder_has_no_gap() -> None:
    better = latent.refine(linear(oracle.exact()), oracle.data(5), steps=100, device=CPU)
    assert (better.gap_nats.abs() < 0.02).all()


def test_refinement_changes_neither_the_net_nor_other_rows() -> None:
    now, x = model("vae"), images(4)
    before = [part.clone() for part in now.net.parameters()]
    better, single = (
        latent.refine(now, part, steps=5, device=CPU) for part in (x, torch.cat([x[:1], images(3, seed=9)]))
    )
    assert all(torch.equal(*pair) for pair in zip(before, now.net.parameters(), strict=True))
    torch.testing.assert_close(better.posterior.mu[0], single.posterior.mu[0], rtol=1e-4, atol=1e-5)
    assert (better.posterior.mu != latent.encode(now, x, device=CPU).mu).any()


def test_an_interpolation_starts_and_ends_at_the_reconstructions() -> None:
    now, x = model("vae"), images(3)
    ways = latent.interpolate(now, x, steps=4, device=CPU)
    ends = latent.decode(now, latent.encode(now, x, device=CPU).mu)
    assert ways.shape == (2, 4, 1, 4, 4)
    assert torch.equal(ways[:, 0], ends[:-1]) and torch.equal(ways[:, -1], ends[1:])


class Plane(nn.Module):
    """A decoder that copies z (B, 2) into the first two of four pixels."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z, torch.zeros_like(z)], 1).view(-1, 1, 1, 4)


def test_the_map_of_a_plane_has_even_steps_in_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    now = linear(Plane())
    monkeypatch.setattr(type(now.family), "decode", lambda self, net, z: net.decode(z))
    z = latent.manifold(now, side=4, device=CPU).flatten(1)[:, :2].view(4, 4, 2)
    u = torch.special.ndtr(z.double())
    steps = torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64)
    torch.testing.assert_close(u[..., 0], steps.expand(4, 4))  # along a row the first coordinate rises
    torch.testing.assert_close(u[..., 1], steps.flip(0)[:, None].expand(4, 4))  # down a column the second falls


def test_only_two_dimensions_have_a_map_and_only_some_families_a_latent_space() -> None:
    now = model("vae")
    assert isinstance(now.family, SupportsLatent) and not isinstance(model("ddpm").family, SupportsLatent)
    wide = Model(
        experiment=now.experiment,
        family=type(now.family)(now.family.config.model_copy(update={"latent_dim": 3}), now.spec),
        net=now.net,
        meta={},
    )
    with pytest.raises(UserError, match="latent_dim=2; this model has 3"):
        latent.manifold(wide, side=3, device=CPU)
    with pytest.raises(UserError, match="ddpm: has no latent space"):
        latent.encode(model("ddpm"), images(2), device=CPU)


def test_features_are_those_of_the_encoder() -> None:
    x = oracle.data(7)
    q = latent.encode(linear(oracle.exact()), x, device=CPU)
    A, log_var = oracle.posterior()
    torch.testing.assert_close(q.mu, (x.flatten(1) - oracle.B) @ A.T)
    prior = torch.distributions.Normal(0.0, 1.0)
    exact = torch.distributions.kl_divergence(torch.distributions.Normal(q.mu, (q.log_var / 2).exp()), prior).sum(1)
    torch.testing.assert_close(q.kl(), exact)
    assert math.isclose(float(log_var[0]), float(q.log_var[0, 0]), rel_tol=1e-6)
