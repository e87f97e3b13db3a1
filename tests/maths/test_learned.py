"""The bound of a learned forward process on Gaussian data, compared with quadrature.

For x_0 ~ N(0, s²) the exact denoiser has m(gamma) = E(eps − eps_hat)² = s²·SNR/(1 + s²·SNR), SNR = e^−gamma, so that
½∫m dgamma between the ends is ½·ln of (1 + s²·SNR_0)/(1 + s²·SNR_1).
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gen_ray.maths import learned
from gen_ray.maths.schedules import DiscreteSchedule, Learned, times
from gen_ray.nets import Gamma
from tests.nets.test_monotone import gamma

S2 = 0.3**2
N = 4000
MIDDLES = (torch.arange(N, dtype=torch.float64) + 0.5) / N  # the midpoint rule, whose weights are equal


def left_over(gamma: Tensor) -> Tensor:
    """Return E(eps − eps_hat)² of the exact denoiser."""
    snr = S2 * torch.exp(-gamma)
    return snr / (1 + snr)


def biased(gamma: Tensor) -> Tensor:
    """Return E(eps − eps_hat)² of a poor denoiser, which also depends only on gamma."""
    return left_over(gamma) + 0.3 * torch.sin(gamma) ** 2


def continuous(net: Gamma, error: Callable[[Tensor], Tensor] = left_over) -> Tensor:
    """Return ½·E_t[gamma'(t)·m(gamma(t))]."""
    values, slope = net(MIDDLES)
    return 0.5 * (slope * error(values)).mean()


def discrete(net: Gamma, T: int) -> Tensor:
    """Return ½·Σ_k expm1(gamma_k − gamma_{k−1})·m(gamma_k)."""
    values, _ = net(times(T + 1))
    return 0.5 * (torch.expm1(values.diff()) * left_over(values[1:])).sum()


def gradients(loss: Tensor, net: Gamma) -> tuple[Tensor, Tensor]:
    """Return the flat gradients with respect to the parameters of the interior and to the ends."""
    ends = [net.first, net.log_span]
    grads = torch.autograd.grad(loss, [*net.interior.parameters(), *ends])
    return torch.cat([g.flatten() for g in grads[:-2]]), torch.stack(grads[-2:])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_in_continuous_time_the_bound_depends_only_on_the_ends(noise: float, seed: int) -> None:
    net = gamma(noise, seed)
    first, span = net.ends()
    low, high = first.detach(), (first + span).detach()
    exact = 0.5 * (torch.log1p(S2 * torch.exp(-low)) - torch.log1p(S2 * torch.exp(-high)))
    torch.testing.assert_close(continuous(net), exact, rtol=1e-4, atol=0)
    inner, outer = gradients(continuous(net), net)
    expected = torch.stack([left_over(high) - left_over(low), left_over(high) * span.detach()]) / 2
    torch.testing.assert_close(outer.double(), expected, rtol=1e-3, atol=1e-4)
    assert inner.abs().max() < 1e-4 * outer.abs().max()
    assert (
        gradients(discrete(net, 20), net)[0].abs().max() > 100 * inner.abs().max()
    )  # with few steps the interior matters


def test_that_holds_for_any_denoiser_that_depends_on_gamma() -> None:
    net = gamma(1.0)
    inner, outer = gradients(continuous(net, biased), net)
    assert inner.abs().max() < 1e-4 * outer.abs().max()


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_bound_on_a_grid_falls_to_that_of_continuous_time(noise: float) -> None:
    net = gamma(noise)
    bounds = [discrete(net, T).item() for T in (10, 20, 40, 80, 160, 2560)]
    limit = continuous(net).item()
    assert all(few > many > limit for few, many in itertools.pairwise(bounds))
    gaps = [bound - limit for bound in bounds]
    assert gaps[4] < 0.6 * gaps[3] and gaps[-1] < 0.02 * limit


def test_the_interior_is_trained_to_lower_the_square_of_the_estimate() -> None:
    """The gradient of the variance loss is that of ln E_t[L²] with fixed ends, by quadrature without implicit time."""
    net = gamma(0.7)
    values, slope = net(MIDDLES)
    expected, _ = gradients((0.5 * slope * left_over(values)).square().mean().log(), net)
    values, slope, log_slope = net.by_ends_alone(MIDDLES)
    loss = learned.schedule_variance_loss(0.5 * slope * left_over(values), log_slope)
    assert not loss.any()
    got = torch.autograd.grad(loss.mean(), list(net.interior.parameters()))
    torch.testing.assert_close(torch.cat([g.flatten() for g in got]), expected, rtol=5e-3, atol=2e-5)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("first", [-13.3, -6.0, -1.0, 2.0])
def test_the_reconstruction_is_a_softmax_over_all_levels(levels: int, first: float) -> None:
    rng = torch.Generator().manual_seed(0)
    u = torch.randint(levels, (500, 1, 1, 2), generator=rng)
    u[:2], u[2:4] = 0, levels - 1
    eps = torch.randn(u.shape, generator=rng)
    g = torch.tensor(first, dtype=torch.float64)
    alpha, sigma = torch.sigmoid(-g).sqrt(), torch.sigmoid(g).sqrt()
    grid = 2 * torch.arange(levels).double() / (levels - 1) - 1
    z = alpha * grid[u] + sigma * eps.double()
    log_p = (-((z.unsqueeze(-1) - alpha * grid) ** 2) / (2 * sigma**2)).log_softmax(-1)
    expected = -log_p.gather(-1, u.unsqueeze(-1)).flatten(1).sum(1)
    got = learned.reconstruction_nats(u.to(torch.uint8), eps, g, levels)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_prior_term_and_the_position_of_a_marginal() -> None:
    g = torch.tensor([-13.3, -2.0, 0.0, 5.0], dtype=torch.float64)
    alpha, sigma = learned.marginal(g, 3)
    torch.testing.assert_close((alpha**2 + sigma**2).flatten(), torch.ones(4))
    torch.testing.assert_close(learned.place(alpha, sigma, -13.3, 5.0).flatten().double(), (g + 13.3) / 18.3)
    x_0, q = torch.tensor([[-1.0, 0.4]]), torch.distributions.Normal
    expected = torch.distributions.kl_divergence(q(alpha[-1] * x_0, sigma[-1]), q(0.0, 1.0)).sum()
    torch.testing.assert_close(learned.prior_nats(x_0, g[-1]), expected[None], rtol=1e-4, atol=1e-6)


def test_gamma_is_a_straight_line_until_a_net_is_fitted() -> None:
    d = DiscreteSchedule.of(Learned(gamma_min=-10, gamma_max=4), 15)
    torch.testing.assert_close(-d.log_snr[1:], torch.linspace(-10, 4, 15, dtype=torch.float64))
    assert d.alpha_bar[0] == 1
