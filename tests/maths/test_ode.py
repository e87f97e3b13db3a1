"""The flow of known densities: ln p to 1e-3 nats per dimension, an unbiased trace, and inversion."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gen_ray.maths.ode import Dopri5, Flow, Rk4, Solver, random_signs, unit_vectors
from gen_ray.maths.sde import VE, VP, Sde, SubVP
from tests.oracles import GaussianMixture

PLANE = GaussianMixture(
    torch.tensor([0.3, 0.7]).double(),
    torch.tensor([[-0.5, 0.2], [0.4, -0.3]]).double(),
    torch.tensor([[0.10, 0.15], [0.12, 0.08]]).double(),
)
DATA = {"gaussian": GaussianMixture.line([1.0], [0.3], [0.2]), "mixture": PLANE}
SDES: dict[str, Sde] = {"vp": VP(), "ve": VE(), "subvp": SubVP()}
SOLVERS: dict[str, Solver] = {"rk4": Rk4(), "dopri5": Dopri5()}
RNG = torch.Generator()


def sides(u: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma of z = x/sqrt(alpha² + sigma²) at u."""
    u = torch.as_tensor(u, dtype=torch.float64)
    return torch.sigmoid(-2 * u).sqrt(), torch.sigmoid(2 * u).sqrt()


def flow(data: GaussianMixture) -> Flow:
    def eps(z: Tensor, u: Tensor) -> Tensor:
        alpha, sigma = sides(u)
        return (z.double() - alpha * data.posterior_mean(z, alpha, sigma)) / sigma

    return Flow(eps)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("solver", [Rk4(steps=40), Dopri5(rtol=1e-5, atol=1e-5)], ids=lambda solver: solver.name)
def test_the_density_is_exact(data: GaussianMixture, sde: Sde, solver: Solver) -> None:
    """For every point if the flow ends in the exact marginal, and on average if it ends in the prior."""
    (low, high), of = sde.u_range, flow(data)
    alpha, sigma = sides(low)
    x = data.sample(40, torch.Generator().manual_seed(0))
    z = alpha * x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    carried = of.carry_density(solver, z, low, high, unit_vectors(z, RNG))
    expected, dims = data.log_prob(z, alpha, sigma), x.shape[1]
    end = data.log_prob(carried.z, *sides(high))
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(carried.z).sum(1)
    assert ((end + carried.log_volume - expected).abs() / dims).max() < 1e-3
    assert ((prior + carried.log_volume - expected) / dims).mean().abs() < 1.2e-3
    assert carried.nfe == of.nfe and 20 < of.nfe <= 160


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_flow_can_be_inverted(solver: Solver) -> None:
    of, z = flow(PLANE), torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = VP().u_range
    data = of.carry(solver, z, high, low)
    torch.testing.assert_close(of.carry(solver, data, low, high), z, rtol=0, atol=0.02)
    carried = of.carry_density(solver, data, low, high, unit_vectors(data, RNG))
    torch.testing.assert_close(carried.z, z, rtol=0, atol=0.02)


def test_rk4_is_of_fourth_order_and_solves_each_row_by_itself() -> None:
    of, z = flow(PLANE), torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = VP().u_range
    exact, few, more = (of.carry(Rk4(steps=n), z, high, low) for n in (800, 40, 80))
    assert math.log2((few - exact).abs().mean() / (more - exact).abs().mean()) > 3
    single = of.carry(Rk4(steps=40), z[:1], high, low)
    torch.testing.assert_close(single, few[:1], rtol=1e-6, atol=1e-6)


def test_the_adaptive_solver_keeps_its_tolerance() -> None:
    of, z = flow(PLANE), torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = VE().u_range
    exact, spent = of.carry(Rk4(steps=1000), z, high, low), []
    for tolerance in (1e-3, 1e-5):
        of.nfe = 0
        out = of.carry(Dopri5(rtol=tolerance, atol=tolerance), z, high, low)
        spent.append(of.nfe)
        assert (out - exact).abs().max() < 100 * tolerance
    assert spent[0] < spent[1] < 1000


def test_hutchinsons_estimator_is_unbiased() -> None:
    """Random signs give the trace on average; estimates of ln p scatter around the exact value."""
    (low, high), n, of = VP().u_range, 400, flow(PLANE)
    z = sides(low)[0] * PLANE.sample(1, torch.Generator().manual_seed(3)).expand(n, 2)
    exact = of.carry_density(Rk4(), z[:1], low, high, unit_vectors(z[:1], RNG)).log_volume
    signs = random_signs(z, torch.Generator().manual_seed(0))
    assert signs.shape == (1, n, 2) and set(signs.unique().tolist()) == {-1.0, 1.0}
    spread = of.carry_density(Rk4(), z, low, high, signs).log_volume
    assert spread.std() > 0.01
    assert abs(float(spread.mean() - exact)) < 4 * float(spread.std()) / math.sqrt(n)


FIELDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "data": flow(PLANE).eps,
    "still": lambda z, u: sides(u)[1] * z,  # dz/du = 0
    "nearly still": lambda z, u: sides(u)[1] * z * (1 + 1e-6),
    "fast": lambda z, u: -30 * z.sin(),
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("solver", [Rk4(), Dopri5(), Dopri5(rtol=0.1, atol=0.1)], ids=["rk4", "dopri5", "dopri5-wide"])
def test_no_time_outside_the_interval_is_evaluated(solver: Solver, sde: Sde, field: Callable[..., Tensor]) -> None:
    (low, high), times, x = sde.u_range, [], torch.randn(8, 2, generator=torch.Generator().manual_seed(0))

    def eps(z: Tensor, u: Tensor) -> Tensor:
        times.append(u)
        return field(z, u)

    for u0, u1 in ((high, low), (low, high)):
        carried = Flow(eps).carry_density(solver, x.double(), u0, u1, random_signs(x, RNG))
        assert carried.z.isfinite().all() and carried.log_volume.isfinite().all()
    u = torch.stack(times)
    assert low - 1e-9 <= float(u.min()) and float(u.max()) <= high + 1e-9
    t = sde.time(u).float()
    assert sde.t_min * (1 - 1e-4) <= float(t.min()) and float(t.max()) <= 1 + 1e-6
