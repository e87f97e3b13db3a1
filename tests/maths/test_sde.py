"""The SDEs, compared with their simulation, their differential equations, and the schedule of which VP is the limit."""

import math

import pytest
import torch
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.maths.schedules import Linear
from gen_ray.maths.sde import SPACINGS, VE, VP, Sde, SubVP

SDES = {"vp": VP(), "ve": VE(), "subvp": SubVP(), "vp-slow": VP(beta_min=0.5, beta_max=5.0), "ve-low": VE(sigma_max=5)}
everywhere = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
T = torch.linspace(0.01, 1, 34, dtype=torch.float64)


@everywhere
def test_marginals_equal_those_of_the_simulated_sde(sde: Sde) -> None:
    """Euler-Maruyama forwards from one datum; VE starts with noise of sigma_min."""
    rng, n, steps, x_0 = torch.Generator().manual_seed(0), 8000, 1000, 0.8
    x = x_0 + float(sde.sigma(torch.zeros(1))) * torch.randn(n, dtype=torch.float64, generator=rng)
    for i in range(steps):
        t = torch.tensor(i / steps, dtype=torch.float64)
        x = x + sde.f(t) * x / steps + (sde.g2(t) / steps).sqrt() * torch.randn(n, dtype=torch.float64, generator=rng)
        if (i + 1) % 250 == 0:
            now = torch.tensor((i + 1) / steps, dtype=torch.float64)
            mean, std = sde.alpha(now) * x_0, sde.sigma(now)
            assert abs(x.mean() - mean) < 4 * std / math.sqrt(n) + 0.005
            assert abs(x.var() / std**2 - 1) < 4 * math.sqrt(2 / n) + 0.02


@everywhere
def test_marginals_solve_their_equations(sde: Sde) -> None:
    """dalpha/dt = f·alpha, dsigma²/dt = 2f·sigma² + g² (Song et al. 2021, appendix B), du/dt = g²/(2·sigma²)."""
    t = T.clone().requires_grad_()

    def slope(of: Tensor) -> Tensor:
        return torch.autograd.grad(of.sum(), t, allow_unused=True, retain_graph=True)[0]

    f, g2, alpha, sigma = sde.f(T), sde.g2(T), sde.alpha(T), sde.sigma(T)
    if sde.name == "ve":
        assert (alpha == 1).all() and (f == 0).all()
    else:
        torch.testing.assert_close(slope(sde.alpha(t)), f * alpha)
    torch.testing.assert_close(slope(sde.sigma(t) ** 2), 2 * f * sigma**2 + g2)
    torch.testing.assert_close(slope(sde.u(t)), g2 / (2 * sigma**2))


@everywhere
def test_time_is_the_inverse_of_u(sde: Sde) -> None:
    torch.testing.assert_close(sde.time(sde.u(T)), T, rtol=1e-9, atol=1e-12)
    low, high = sde.u_range
    assert low < high
    assert sde.alpha(T).dtype == sde.sigma(T.float()).dtype == sde.f(T.float()).dtype == torch.float64


def test_vp_is_the_limit_of_the_linear_schedule() -> None:
    vp = VP()
    torch.testing.assert_close(-2 * vp.u(T), Linear().log_snr(T), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(vp.alpha(T) ** 2 + vp.sigma(T) ** 2, torch.ones_like(T))
    assert (SubVP().sigma(T) < vp.sigma(T)).all()


@everywhere
def test_the_prior_is_the_marginal_at_the_end(sde: Sde) -> None:
    if sde.name == "vp-slow":
        return
    one = torch.ones(1)
    assert float(sde.sigma(one)) == pytest.approx(sde.prior_std, rel=0.05)


@everywhere
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_path_falls_from_noise_to_data(sde: Sde, spacing: str) -> None:
    for steps in (1, 2, 3, 50):
        path = sde.path(steps, spacing)
        assert len(path.t) == steps + 1 and (path.t.diff() < 0).all() and path.log_snr.diff().gt(0).all()
        assert float(path.t[0]) == pytest.approx(1) and (path.t[-1], path.alpha[-1], path.sigma[-1]) == (0, 1, 0)
        torch.testing.assert_close(path.alpha[:-1], sde.alpha(path.t[:-1]))
        if steps > 1:
            assert float(path.t[-2]) == pytest.approx(sde.t_min)
    gaps = (path.log_snr if spacing == "log_snr" else path.t)[:-1].diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-6, atol=1e-9)


def test_errors_are_named() -> None:
    for steps in (0, -1, 10**6):
        with pytest.raises(UserError, match="steps"):
            VP().path(steps)
    with pytest.raises(UserError, match="did you mean 'log_snr'"):
        VE().path(3, "log-snr")
    for wrong in ({"beta_max": 0.05}, {"beta_min": 0.0}):
        with pytest.raises(ValueError, match="beta"):
            VP(**wrong)
    with pytest.raises(ValueError, match="sigma_max must be larger"):
        VE(sigma_max=0.001)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (VP, {"beta_max": 2000}, "alpha is 6.9.*make beta_max smaller"),
        (SubVP, {"beta_min": 1e308, "beta_max": 1.1e308}, "alpha is 0 .*make beta_max smaller"),
        (VP, {"beta_min": 0.001, "beta_max": 0.002}, "alpha is 0.999 .*make beta_max larger"),
        (VP, {"t_min": 1e-300}, "sigma is 3.*e-151 at t_min"),
        (VE, {"sigma_max": 1e200}, "sigma is 1e.200 .*make sigma_max smaller"),
        (VE, {"sigma_min": 1e-200}, "sigma is .*e-200 at t_min"),
        (VE, {"sigma_max": 0.5}, "make sigma_max larger"),
    ],
)
def test_an_sde_ends_in_noise_that_floats_can_represent(
    kind: type[VP | VE | SubVP], settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
