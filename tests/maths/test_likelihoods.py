"""Likelihoods sum to one, divergences equal quadrature, and values at the extremes are finite."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gen_ray.maths.likelihoods import (
    bernoulli_log_prob,
    categorical_log_prob,
    discretised_gaussian_log_prob,
    discretised_logistic_log_prob,
    normal_kl,
    standard_normal_kl,
    sum_dims,
)

Discretised = Callable[[Tensor, Tensor, Tensor, int], Tensor]
CDF = {
    discretised_logistic_log_prob: torch.sigmoid,
    discretised_gaussian_log_prob: torch.special.ndtr,
}
BOTH = pytest.mark.parametrize("log_prob", CDF, ids=["logistic", "gaussian"])
MEANS = torch.tensor([-1e4, -3.0, -1.0, -0.5, 0.0, 0.123, 0.99, 1.0, 5.0, 1e4])
LOG_SCALES = torch.tensor([-40.0, -20.0, -7.0, -5.5, -4.0, -1.0, 0.0, 2.0, 8.0, 40.0])


def every_case(levels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Return u (levels, 1, 1) and all pairs of mean (1, M, 1) and log_scale (1, 1, S)."""
    return torch.arange(levels)[:, None, None], MEANS.to(dtype)[None, :, None], LOG_SCALES.to(dtype)[None, None]


@BOTH
@pytest.mark.parametrize("levels", [2, 3, 17, 256, 4096])
def test_masses_sum_to_one(log_prob: Discretised, levels: int) -> None:
    total = log_prob(*every_case(levels, torch.float64), levels).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=2e-6)


@BOTH
def test_gradients_are_finite_at_the_extremes(log_prob: Discretised) -> None:
    u, mean, log_scale = every_case(256)
    mean, log_scale = (p.expand(256, len(MEANS), len(LOG_SCALES)).clone().requires_grad_() for p in (mean, log_scale))
    value = log_prob(u, mean, log_scale, 256)
    assert value.dtype == torch.float32 and value.isfinite().all() and (value <= 1e-6).all()
    for gradient in torch.autograd.grad(value.sum(), (mean, log_scale)):
        assert gradient.isfinite().all()


@BOTH
def test_gradients_are_correct_where_the_formulas_meet(log_prob: Discretised) -> None:
    """Widths on both sides of the switch and bins in tail and middle, compared with finite differences."""
    width = torch.tensor([0.2e-3, 0.99e-3, 1.01e-3, 3e-3, 0.5, 20.0], dtype=torch.float64)
    log_scale = ((2 / 255) / width).log()[:, None].requires_grad_()
    mean = torch.tensor([-1.0, 0.02, 1.3], dtype=torch.float64).requires_grad_()
    u = torch.tensor([130])
    assert torch.autograd.gradcheck(lambda m, s: log_prob(u, m, s, 256), (mean, log_scale), rtol=1e-4)


@BOTH
def test_mass_is_a_difference_of_the_cumulative(log_prob: Discretised) -> None:
    levels, mean, scale = 9, torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    edges = (torch.arange(1, levels, dtype=torch.float64) - 0.5) * 2 / (levels - 1) - 1
    cumulative = CDF[log_prob]((edges - mean) / scale)
    mass = torch.cat([cumulative, torch.ones(1)]) - torch.cat([torch.zeros(1), cumulative])
    torch.testing.assert_close(log_prob(torch.arange(levels), mean, scale.log(), levels).exp(), mass.double())


@BOTH
def test_narrow_bins_approach_the_density(log_prob: Discretised) -> None:
    """As the number of levels grows, mass / width tends to the density."""
    levels = 65536
    x = torch.tensor([-0.8, 0.0, 0.7], dtype=torch.float64)
    u = ((x + 1) / 2 * (levels - 1)).round().long()
    centred = (2 * u.double() / (levels - 1) - 1 - 0.1).requires_grad_()
    (density,) = torch.autograd.grad(CDF[log_prob](centred / 2.0).sum(), centred)
    value = log_prob(u, torch.tensor(0.1, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64).log(), levels)
    torch.testing.assert_close(value, (density * 2 / (levels - 1)).log(), rtol=0, atol=1e-7)


@BOTH
def test_reflection_of_value_and_mean_keeps_the_mass(log_prob: Discretised) -> None:
    u, mean, log_scale = every_case(64, torch.float64)
    torch.testing.assert_close(log_prob(u, mean, log_scale, 64), log_prob(63 - u, -mean, log_scale, 64))


def test_the_gaussian_tail_falls_as_the_square() -> None:
    """For a bin 2000 standard deviations away, the mass is that of its near edge to first order in the exponent."""
    u, mean, log_sigma = torch.tensor(200), torch.tensor(-1.0), torch.tensor(-7.0)
    near = (2 * 200 / 255 - 1 / 255) * torch.tensor(7.0).exp()
    value = discretised_gaussian_log_prob(u, mean, log_sigma, 256)
    assert value.item() == pytest.approx(-0.5 * near.item() ** 2, rel=1e-4)


def test_the_gaussian_gradient_is_right_in_the_far_tail() -> None:
    """ln of the mass is about -e²/2 with e the distance to the near edge; its gradient by the mean is e / sigma."""
    for mean in (-1.0, -1e2, -1e4):
        m = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
        log_sigma = torch.tensor(-9.0, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(discretised_gaussian_log_prob(torch.tensor(200), m, log_sigma, 256), m)
        edge = 2 * 200 / 255 - 1 - 1 / 255 - mean
        assert gradient.item() == pytest.approx(edge * math.exp(18.0), rel=1e-6)


def test_normal_kl_equals_that_of_torch_and_quadrature() -> None:
    g = torch.Generator().manual_seed(0)
    m1, v1, m2, v2 = torch.randn(4, 50, dtype=torch.float64, generator=g)
    p, q = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in ((m1, v1), (m2, v2)))
    kl = normal_kl(m1, v1, m2, v2)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(p, q))
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    integrand = p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))
    torch.testing.assert_close(torch.trapezoid(integrand, x, dim=0), kl, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(standard_normal_kl(m1, v1), normal_kl(m1, v1, torch.zeros(50), torch.zeros(50)))


def test_kl_of_near_neighbours_does_not_cancel() -> None:
    zero = torch.tensor(0.0)
    for log_var in (1e-3, -1e-3):
        assert normal_kl(zero, torch.tensor(log_var), zero, zero).item() == pytest.approx(log_var**2 / 4, rel=1e-3)


def test_bernoulli() -> None:
    logits = torch.tensor([-200.0, -3.0, 0.0, 2.0, 200.0])
    masses = torch.stack([bernoulli_log_prob(torch.full((5,), x), logits) for x in (0.0, 1.0)])
    torch.testing.assert_close(masses.logsumexp(0), torch.zeros(5))
    torch.testing.assert_close(masses[1].exp(), torch.sigmoid(logits))
    assert masses.isfinite().all()


@pytest.mark.parametrize("dim", [-1, 1])
def test_categorical(dim: int) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=g).movedim(1, dim)
    values = [torch.full((2, 3), k) for k in range(5)]
    total = torch.stack([categorical_log_prob(u, logits, dim) for u in values]).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(2, 3))
    u = torch.tensor([[0, 1, 2], [3, 4, 0]])
    expected = torch.distributions.Categorical(logits=logits.movedim(dim, -1)).log_prob(u)
    torch.testing.assert_close(categorical_log_prob(u, logits, dim), expected)


def test_sum_dims_makes_a_joint_probability() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.1]])
    images = [torch.tensor(bits).float().view(1, 2, 2) for bits in itertools.product((0, 1), repeat=4)]
    total = torch.cat([sum_dims(bernoulli_log_prob(x, logits)) for x in images]).exp().sum()
    assert total.item() == pytest.approx(1.0)
    assert sum_dims(torch.arange(3.0)).tolist() == [0, 1, 2]
