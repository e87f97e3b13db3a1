"""DDPM with a learned forward process and the exact denoiser of known data."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.configuration.base import validated
from gen_ray.engine.inference.generate import generate
from gen_ray.errors import UserError
from gen_ray.families.ddpm import Ddpm, DdpmConfig
from gen_ray.maths.schedules import alpha_bar_of, times
from gen_ray.nets import Diffuser
from tests.families.cases import rng
from tests.families.test_ddpm_oracle import CPU, ENTROPY, GAUSSIAN, LEVELS, LOG_P, MIXTURE, PAIR, PIXEL
from tests.oracles import GaussianMixture

LOW, HIGH, S2 = -9.0, 4.0, 0.2**2


class GammaDenoiser(nn.Module):
    """The exact denoiser of a mixture; its time is the position of gamma between LOW and HIGH."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        gamma = LOW + time.double().view(-1, 1) * (HIGH - LOW)
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        flat = x.double().flatten(1)
        x_0 = self.mixture.posterior_mean(flat, alpha, sigma)
        return ((flat - alpha * x_0) / sigma).reshape(x.shape).to(x.dtype)


def model(spec: Any = PIXEL, steps: int = 100, **schedule: Any) -> Ddpm:
    chosen = {"name": "learned", "gamma_min": LOW, "gamma_max": HIGH, "hidden": 8, **schedule}
    return Ddpm(DdpmConfig(schedule=chosen, steps=steps, loss="vlb"), spec)


def exact(family: Ddpm, mixture: GaussianMixture = GAUSSIAN, noise: float = 0.0) -> Diffuser:
    """Return the exact denoiser with a gamma whose interior is changed by noise."""
    net = family.forward.wrapped(GammaDenoiser(mixture))
    assert isinstance(net, Diffuser)
    torch.manual_seed(0)
    for parameter in net.gamma.interior.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return net


def drawn(n: int, seed: int = 0) -> Tensor:
    return LEVELS[torch.multinomial(LOG_P.exp(), n, replacement=True, generator=rng(seed))]


def left_over(gamma: float) -> float:
    return S2 * math.exp(-gamma) / (1 + S2 * math.exp(-gamma))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_training_loss_is_the_bound_for_any_interior(noise: float) -> None:
    """E[diffusion] = ½∫m dgamma in closed form; its gradient is m at the ends and zero in the interior."""
    family, n = model(), 40_000
    net = exact(family, noise=noise)
    parts = family.loss(net, drawn(n), rng(1), step=0).parts
    diffusion = parts["diffusion_nats"].double().detach()
    expected = 0.5 * (math.log1p(S2 * math.exp(-LOW)) - math.log1p(S2 * math.exp(-HIGH)))
    assert abs(float(diffusion.mean()) - expected) < 4 * float(diffusion.std()) / math.sqrt(n)
    ends = torch.autograd.grad(parts["diffusion_nats"].mean(), [net.gamma.first, net.gamma.log_span], retain_graph=True)
    by_last = left_over(HIGH) / 2
    assert float(ends[0]) == pytest.approx(by_last - left_over(LOW) / 2, abs=0.03)
    assert float(ends[1]) == pytest.approx(by_last * (HIGH - LOW), abs=0.05 * (HIGH - LOW))
    interior = list(net.gamma.interior.parameters())
    assert all(g is None for g in torch.autograd.grad(parts["diffusion_nats"].mean(), interior, allow_unused=True))


def test_the_bound_falls_to_the_entropy_with_more_steps() -> None:
    x, gaps = LEVELS.repeat(8, 1, 1, 1), []
    for steps in (25, 100, 400):
        family = model(steps=steps)
        net = exact(family, noise=0.5)
        nats = family.fitted(net).nll(net, x, rng(), effort=steps).nats.double().view(8, 256) @ LOG_P.exp()
        gaps.append(float(nats.mean()) - ENTROPY)
    assert gaps[0] > gaps[1] > gaps[2] > -0.01 and gaps[2] < 0.05, gaps


def test_in_discrete_time_training_loss_and_likelihood_are_equal() -> None:
    family, n = model(steps=12, estimate="discrete"), 40_000
    net = exact(family, noise=0.5)
    loss = family.loss(net, drawn(n), rng(1), step=0).total.double().detach()
    nll = family.fitted(net).nll(net, drawn(n), rng(2), effort=12)
    assert nll.nfe == 11
    error = math.hypot(loss.std(), nll.nats.double().std()) / math.sqrt(n)
    assert abs(float(loss.mean() - nll.nats.double().mean())) < 4 * error


def test_learning_the_interior_lowers_the_variance_and_keeps_the_bound() -> None:
    family = model(learn_ends=False)
    net = exact(family, noise=0.5)

    def moments() -> tuple[float, float]:
        nats = family.loss(net, drawn(8000, seed=1), rng(9), step=0).parts["diffusion_nats"].double().detach()
        return float(nats.mean()), float(nats.std())

    (mean, std), optimizer = moments(), torch.optim.Adam(net.gamma.parameters(), lr=0.03)
    for step in range(150):
        optimizer.zero_grad()
        family.loss(net, drawn(256, seed=step), rng(step), step=step).total.mean().backward()
        optimizer.step()
    after_mean, after_std = moments()
    assert after_std < 0.85 * std
    assert abs(after_mean - mean) < 4 * std / math.sqrt(8000)


def test_the_fitted_family_uses_the_learned_chain() -> None:
    family = model(steps=40)
    net = exact(family, noise=0.7)
    net.gamma.first.data -= 1.0
    fitted = family.fitted(net)
    gamma, _ = net.gamma(times(40))
    torch.testing.assert_close(fitted.schedule.alpha_bar, alpha_bar_of(gamma.detach()))
    assert not torch.allclose(fitted.schedule.alpha_bar, family.schedule.alpha_bar, rtol=1e-3)
    assert fitted.schedule.alpha_bar[1] == torch.sigmoid(torch.tensor(10.0).double())
    assert family.fitted(exact(family)).spec == family.spec
    given = Ddpm(DdpmConfig(steps=10), PIXEL)
    assert torch.equal(given.fitted(nn.Identity()).schedule.alpha_bar, given.schedule.alpha_bar)


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize(
    ("sampler", "steps"), [("ancestral", None), ("ddim:eta=1", 100), ("dpmpp_2m", 25), ("heun", 15)]
)
def test_the_samples_of_the_exact_net_follow_the_data(sampler: str, steps: int | None, noise: float) -> None:
    """Also for another gamma than in training, because the net's time input determines the SNR."""
    family, n = model(PAIR, steps=150), 1000
    net = exact(family, MIXTURE, noise)
    chain = family.fitted(net).chain(sampler, steps)
    x = generate(net, chain, n, seed=3, device=CPU, batch_size=n).double().flatten(1) / 127.5 - 1
    error = (MIXTURE.variance / n).sqrt()
    assert ((x.mean(0) - MIXTURE.mean).abs() < 4 * error + 0.02).all()
    torch.testing.assert_close(x.var(0), MIXTURE.variance, rtol=0.12, atol=0)
    assert float(MIXTURE.log_prob(x).mean()) > float(MIXTURE.log_prob(MIXTURE.sample(n, rng())).mean()) - 0.15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "loss=vlb"),
        ({"loss": "vlb", "variance": "learned"}, "variance=small"),
        ({"loss": "vlb", "schedule": {"name": "learned", "gamma_min": 6}}, "gamma_max must be larger"),
    ],
)
def test_incompatible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validated(DdpmConfig, {"schedule": "learned", **settings}, path="family")
