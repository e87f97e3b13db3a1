"""VAEs with known log p(x): a linear Gaussian one, and images small enough for enumeration."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.generate import generate
from gen_ray.families.vae import Vae, VaeConfig
from gen_ray.maths.observation import Observation
from tests.families.cases import awake, rng

S = 0.5
W = torch.tensor([[1.0, 0.5], [0.5, -1.0], [1.0, 0.3], [-0.3, 1.0]])  # orthogonal columns: a diagonal posterior
W = W - torch.outer(W[:, 0], W[:, 0] @ W) / W[:, 0].square().sum() * torch.tensor([0.0, 1.0])
B = torch.tensor([0.3, -0.2, 0.1, 0.0])


class Normal(Observation):
    """x ~ N(params, S²)."""

    @property
    def out_channels(self) -> int:
        return self.channels

    def scaled(self, x: Tensor) -> Tensor:
        return x

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return torch.distributions.Normal(params, S).log_prob(x)

    def mean(self, params: Tensor) -> Tensor:
        return params

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        return params + S * torch.special.ndtri(u)


class Linear(nn.Module):
    """q(z|x) = N(A(x − b), diag e^log_var) and E[x|z] = Wz + b."""

    def __init__(self, A: Tensor, log_var: Tensor, W: Tensor, b: Tensor) -> None:
        super().__init__()
        self.A, self.log_var, self.W, self.b = (nn.Parameter(part.clone()) for part in (A, log_var, W, b))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = (x.flatten(1) - self.b) @ self.A.T
        return mu, self.log_var.expand_as(mu)

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.W.T + self.b).view(-1, 1, 1, 4)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encode(x)
        return mu, log_var, self.decode(mu + (log_var / 2).exp() * eps)


def family() -> Vae:
    made = Vae(VaeConfig(latent_dim=2), DataSpec(name="line", kind="image", shape=(1, 1, 4), levels=2))
    made.observation = Normal(2, 1)
    return made


def posterior() -> tuple[Tensor, Tensor]:
    """Return A and log-variances of the exact q(z|x)."""
    variance = 1 / (1 + W.square().sum(0) / S**2)
    return variance[:, None] * W.T / S**2, variance.log()


def evidence(x: Tensor) -> Tensor:
    """Return log p(x) = log N(x; b, WWᵀ + S²I), (N,)."""
    law = torch.distributions.MultivariateNormal(B, W @ W.T + S**2 * torch.eye(4))
    return law.log_prob(x.flatten(1))


def data(n: int, seed: int = 0) -> Tensor:
    z, noise = torch.randn(n, 2, generator=rng(seed)), torch.randn(n, 4, generator=rng(seed + 1))
    return (z @ W.T + B + S * noise).view(n, 1, 1, 4)


def exact() -> Linear:
    return Linear(*posterior(), W, B)


def sloppy() -> Linear:
    A, log_var = posterior()
    return Linear(0.7 * A + 0.1, log_var + torch.tensor([0.5, -0.3]), W, B)


@pytest.mark.parametrize("effort", [2, 3, 20])
@torch.no_grad()
def test_importance_weights_are_constant_at_the_exact_posterior(effort: int) -> None:
    x = data(50)
    nll = family().nll(exact(), x, rng(), effort=effort)
    torch.testing.assert_close(-nll.nats, evidence(x), rtol=0, atol=1e-4)


def elbo(net: Linear, x: Tensor) -> Tensor:
    """Return log p(x) − KL(q(z|x) ‖ p(z|x)) (N,), with the divergence of the two Gaussians from torch."""
    A, log_var = posterior()
    q_mu, q_log_var = net.encode(x)
    q = torch.distributions.Normal(q_mu, (q_log_var / 2).exp())
    p = torch.distributions.Normal((x.flatten(1) - B) @ A.T, (log_var / 2).exp())
    return evidence(x) - torch.distributions.kl_divergence(q, p).sum(1)


@pytest.mark.parametrize("net", [exact(), sloppy()], ids=["exact", "sloppy"])
@torch.no_grad()
def test_the_elbo_is_the_evidence_minus_the_divergence(net: Linear) -> None:
    x, repeats = data(8), 20_000
    many = x.repeat(repeats, 1, 1, 1)
    for nats in (
        family().nll(net, many, rng(), effort=1).nats,
        family().loss(net, many, rng(1), step=0).total,
    ):
        draws = nats.view(repeats, 8).double()
        error = draws.std(0) / math.sqrt(repeats)
        assert ((-draws.mean(0) - elbo(net, x)).abs() < 4 * error).all()
        assert (elbo(net, x) <= evidence(x) + 1e-5).all()


@torch.no_grad()
def test_the_importance_weighted_bound_rises_to_the_evidence() -> None:
    """Burda et al. 2016, theorem 1; exp(−nll) is an unbiased estimate of p(x) for any number of draws."""
    x, repeats = data(4, seed=3), 20_000
    bounds, errors = [elbo(sloppy(), x)], [torch.zeros(4)]
    for effort in (2, 8, 64):
        draws = -family().nll(sloppy(), x.repeat(repeats, 1, 1, 1), rng(effort), effort=effort).nats
        draws = draws.view(repeats, 4).double()
        bounds.append(draws.mean(0))
        errors.append(draws.std(0) / math.sqrt(repeats))
        p = (draws - evidence(x)).exp()
        assert ((p.mean(0) - 1).abs() < 5 * p.std(0) / math.sqrt(repeats)).all()
    for (low, low_error), (high, high_error) in itertools.pairwise(zip(bounds, errors, strict=True)):
        assert (high > low - 4 * (low_error + high_error)).all()
    assert (bounds[-1] <= evidence(x) + 4 * errors[-1]).all()
    assert (evidence(x) - bounds[-1]).max() < 0.1 * (evidence(x) - bounds[0]).max()


def test_training_reaches_the_evidence() -> None:
    """Encoder and decoder start from random weights; the gap to the data distribution falls to 0.02 nats."""
    torch.manual_seed(0)
    net, vae = Linear(0.1 * torch.randn(2, 4), torch.zeros(2), 0.3 * torch.randn(4, 2), torch.zeros(4)), family()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for step in range(600):
        optimizer.zero_grad()
        vae.loss(net, data(1024, seed=10 + 2 * step), rng(step), step=step).total.mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        x = data(100_000, seed=5)
        gap = vae.nll(net, x, rng(7), effort=1).nats + evidence(x)
        again = vae.nll(net, x, rng(8), effort=1).nats + evidence(x)
    both = torch.cat([gap, again]).double()
    assert -4 * both.std() / math.sqrt(len(both)) < both.mean() < 0.02


# ---- enumerable images --------------------------------------------------------------------------------------------

NET = {"name": "mlp", "hidden": [16]}
TINY = {
    "bernoulli": (VaeConfig(latent_dim=1, likelihood="bernoulli", binarise="static", net=NET), (1, 1, 2), 2),
    "categorical": (VaeConfig(latent_dim=1, likelihood="categorical", net=NET), (1, 1, 2), 3),
    "logistic": (VaeConfig(latent_dim=1, likelihood="logistic", net=NET), (2, 1, 1), 4),
}


def tiny(name: str) -> tuple[Vae, nn.Module, Tensor, Tensor]:
    """Return a family, a net, all possible images, and log p(x) of each by quadrature over z."""
    config, shape, levels = TINY[name]
    vae = Vae(config, DataSpec(name=name, kind="image", shape=shape, levels=levels))
    net = awake(vae, noise=0.1).requires_grad_(False)
    x = torch.tensor(list(itertools.product(range(levels), repeat=2)), dtype=torch.uint8).view(-1, *shape)
    z = torch.linspace(-8, 8, 2001)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z) + math.log(16 / 2000)
    params = net.decode(z[:, None])
    joint = [vae.observation.log_prob(u.expand(2001, *shape), params).flatten(1).sum(1) + log_prior for u in x]
    return vae, net, x, torch.stack(joint).double().logsumexp(1)


@pytest.mark.parametrize("name", TINY)
def test_all_images_together_have_probability_one(name: str) -> None:
    *_, log_p = tiny(name)
    assert math.isclose(float(log_p.exp().sum()), 1, abs_tol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_importance_sampling_finds_the_probability_of_every_image(name: str) -> None:
    vae, net, x, log_p = tiny(name)
    repeats, shape = 4000, x.shape[1:]
    means = []
    for effort in (1, 2, 30):
        many = x.repeat(repeats, *[1] * len(shape))
        draws = -vae.nll(net, many, rng(effort), effort=effort).nats.view(repeats, -1).double()
        means.append(draws.mean(0))
        if effort > 1:
            p = (draws - log_p).exp()
            assert ((p.mean(0) - 1).abs() < 5 * p.std(0) / math.sqrt(repeats)).all()
    assert (means[0] < log_p).all() and (means[1] > means[0]).all() and (means[2] > means[1]).all()
    assert (log_p - means[2] < 0.5 * (log_p - means[0])).all()
    deep = -vae.nll(net, x, rng(), effort=5000).nats.double()
    torch.testing.assert_close(deep, log_p, rtol=0, atol=0.1)


def test_drawn_samples_follow_the_model() -> None:
    """Samples have the probabilities of the model, by a chi-square test over all images."""
    vae, net, _, log_p = tiny("categorical")
    n = 9000
    samples = generate(net, vae.chain("draw"), n, seed=0, device=torch.device("cpu"), batch_size=3000)
    codes = samples.flatten(1).long() @ torch.tensor([3, 1])
    expected = n * log_p.exp()
    statistic = float(((torch.bincount(codes, minlength=9) - expected) ** 2 / expected).sum())
    assert statistic < 26.1  # 8 degrees of freedom, p = 0.001


def test_the_divergence_is_warmed_up_from_a_first_step_to_one() -> None:
    vae = Vae(VaeConfig(latent_dim=3, kl_warmup_steps=4), DataSpec(name="x", kind="image", shape=(1, 2, 2), levels=9))
    net, x = awake(vae), torch.randint(9, (5, 1, 2, 2), generator=rng())
    for step, weight in ((0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (1 << 40, 1.0)):
        terms = vae.loss(net, x, rng(), step=step)
        reconstruction, kl = terms.parts["reconstruction_nats"], terms.parts["kl_nats"]
        torch.testing.assert_close(terms.total, reconstruction + weight * kl)
        assert (kl > 0).all()
    torch.testing.assert_close(vae.nll(net, x, rng(), effort=1).nats, vae.loss(net, x, rng(), step=3).total)
