"""The posterior, compared with Bayes' rule on a grid, and conversions, compared with each other."""

import pytest
import torch
from torch import Tensor

from gen_ray.maths.gaussian import PREDICTIONS, diffuse, posterior, posterior_between
from gen_ray.maths.schedules import Cosine, DiscreteSchedule, Linear
from tests.oracles import GaussianMixture

MIXTURE = GaussianMixture.line([0.3, 0.7], [-0.6, 0.5], [0.15, 0.1])


def normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * variance))


@pytest.mark.parametrize("k", [2, 10, 60, 100])
def test_posterior_equals_bayes_rule_on_a_grid(k: int) -> None:
    d, x_0, x_k = DiscreteSchedule.of(Linear(), 100), 0.4, -0.7
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    mass = normal(x_k, (1 - d.beta[k]).sqrt() * x, d.beta[k]) * normal(x, d.alpha[k - 1] * x_0, d.sigma[k - 1] ** 2)
    mass /= mass.sum()
    mean = (mass * x).sum()
    q = posterior(d, k)
    assert q.coef_x * x_k + q.coef_x0 * x_0 == pytest.approx(mean.item(), abs=1e-9)
    assert q.variance.item() == pytest.approx((mass * (x - mean) ** 2).sum().item(), rel=1e-7)


def test_posterior_is_eq_7_and_takes_many_k_at_once() -> None:
    d, k = DiscreteSchedule.of(Cosine(), 50), torch.arange(1, 51)
    q = posterior(d, k)
    torch.testing.assert_close(q.variance, d.posterior_variance[1:], rtol=1e-9, atol=1e-16)
    alpha_k = 1 - d.beta[k]
    torch.testing.assert_close(q.coef_x, alpha_k.sqrt() * (1 - d.alpha_bar[k - 1]) / (1 - d.alpha_bar[k]))
    torch.testing.assert_close(q.coef_x0, d.alpha[k - 1] * d.beta[k] / (1 - d.alpha_bar[k]))
    assert posterior(d, 1) == (0, 1, 0)  # the last step ends at x_0


@pytest.mark.parametrize("process", ["preserving", "exploding"])
def test_posterior_between_times_gives_the_earlier_marginal(process: str) -> None:
    """Chapman-Kolmogorov: ∫ q(x_s | x_t, x_0) q(x_t | x_0) dx_t = q(x_s | x_0) for any alpha and sigma."""
    d = DiscreteSchedule.of(Cosine(), 100)
    s, t = torch.tensor([1, 20, 50]), torch.tensor([40, 21, 99])
    pair = {
        "preserving": (d.alpha[s], d.sigma[s], d.alpha[t], d.sigma[t]),
        "exploding": (torch.ones(3).double(), 0.1 * s.double(), torch.ones(3).double(), 0.1 * t.double()),
    }
    alpha_s, sigma_s, alpha_t, sigma_t = pair[process]
    q = posterior_between(alpha_s, sigma_s, alpha_t, sigma_t)
    torch.testing.assert_close(q.coef_x * alpha_t + q.coef_x0, alpha_s)
    torch.testing.assert_close((q.coef_x * sigma_t) ** 2 + q.variance, sigma_s**2)


def test_two_posterior_steps_equal_one_long_step() -> None:
    d = DiscreteSchedule.of(Linear(), 200)
    at = [(d.alpha[k], d.sigma[k]) for k in (30, 90, 170)]
    near, far, both = (posterior_between(*at[i], *at[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    torch.testing.assert_close(near.coef_x * far.coef_x, both.coef_x)
    torch.testing.assert_close(near.coef_x * far.coef_x0 + near.coef_x0, both.coef_x0)
    torch.testing.assert_close(near.coef_x**2 * far.variance + near.variance, both.variance)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_perfect_output_gives_data_and_noise(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 6, 1, 4, 4, dtype=torch.float64, generator=g)
    angle = torch.linspace(0.1, 1.4, 6, dtype=torch.float64).view(6, 1, 1, 1)
    for length in (1.0, 0.8):  # variance preserving or not
        alpha, sigma = angle.cos() * length, angle.sin() * length
        x_t, prediction = diffuse(x_0, eps, alpha, sigma), PREDICTIONS[name]
        output = prediction.target(x_0, eps, alpha, sigma)
        torch.testing.assert_close(prediction.to_x_0(output, x_t, alpha, sigma), x_0)
        torch.testing.assert_close(prediction.to_eps(output, x_t, alpha, sigma), eps)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_an_imperfect_output_is_converted_consistently(name: str) -> None:
    """For any network output, the derived x_0 and eps are consistent with x_t."""
    g = torch.Generator().manual_seed(1)
    output, x_t = torch.randn(2, 5, 3, dtype=torch.float64, generator=g)
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    x_0, eps = (read(output, x_t, alpha, sigma) for read in (PREDICTIONS[name].to_x_0, PREDICTIONS[name].to_eps))
    torch.testing.assert_close(diffuse(x_0, eps, alpha, sigma), x_t, rtol=1e-6, atol=1e-7)


def test_v_is_the_velocity_along_the_angle() -> None:
    g = torch.Generator().manual_seed(2)
    x_0, eps = torch.randn(2, 5, dtype=torch.float64, generator=g)
    angle = torch.tensor(0.7, dtype=torch.float64)
    one = torch.ones_like(angle)
    _, velocity = torch.autograd.functional.jvp(lambda a: diffuse(x_0, eps, a.cos(), a.sin()), angle, one)
    torch.testing.assert_close(PREDICTIONS["v"].target(x_0, eps, angle.cos(), angle.sin()), velocity)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 0.99])
def test_score_is_the_gradient_of_the_log_density(sigma: float) -> None:
    """Tweedie's formula (Efron 2011), with which tables express the score as a·x + b·x̂_0."""
    alpha = (1 - sigma**2) ** 0.5
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None].requires_grad_()
    (gradient,) = torch.autograd.grad(MIXTURE.log_prob(x, alpha, sigma).sum(), x)
    torch.testing.assert_close((alpha * MIXTURE.posterior_mean(x, alpha, sigma) - x) / sigma**2, gradient)
    torch.testing.assert_close(MIXTURE.score(x, alpha, sigma), gradient)


def test_the_oracle_is_exact() -> None:
    """E[x_0 | x_t] by integration over a grid, and moments by sampling."""
    x_0 = torch.linspace(-2, 2, 20_001, dtype=torch.float64)[:, None]
    mass = MIXTURE.log_prob(x_0).exp() * normal(torch.tensor(0.3), 0.8 * x_0[:, 0], 0.36)
    known = MIXTURE.posterior_mean(torch.tensor([0.3]), 0.8, 0.6).item()
    assert known == pytest.approx((mass * x_0[:, 0]).sum().item() / mass.sum().item(), abs=1e-7)
    x = MIXTURE.sample(200_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(0), MIXTURE.mean, rtol=0, atol=0.006)
    torch.testing.assert_close(x.var(0), MIXTURE.variance, rtol=0.01, atol=0)
