"""Tables, compared with exact results: the flow of a Gaussian, moments of a mixture, the loops of the papers."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.maths.gaussian import PREDICTIONS, posterior, posterior_between
from gen_ray.maths.schedules import Cosine, DiscreteSchedule, Learned, Linear, Sigmoid
from gen_ray.maths.tables import GRIDS, Column, Variance, ancestral, apply, ddim, dpmpp_2m, grid, heun, respace, spread
from tests.maths.reference_engine import run_table
from tests.oracles import GaussianMixture

GAUSSIAN = GaussianMixture.line([1.0], [0.3], [0.2])
MIXTURE = GaussianMixture.line([0.3, 0.7], [-0.6, 0.5], [0.15, 0.1])
NOISE = torch.linspace(-2.5, 2.5, 51, dtype=torch.float64)[:, None]
SCHEDULES = {
    "linear": DiscreteSchedule.of(Linear(), 1000),
    "cosine": DiscreteSchedule.of(Cosine(), 1000),
    "sigmoid": DiscreteSchedule.of(Sigmoid(), 1000),
}
DETERMINISTIC: dict[str, Callable[[DiscreteSchedule, int], Tensor]] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "heun": heun}
ON_ALL = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def flow(schedule: DiscreteSchedule, x_t: Tensor) -> Tensor:
    """Return the end of the probability-flow ODE from x_T for GAUSSIAN data: the monotone map of the marginals."""
    mean, variance = GAUSSIAN.mean, GAUSSIAN.variance
    spread = (schedule.alpha_bar[-1] * variance + schedule.sigma[-1] ** 2).sqrt()
    return mean + variance.sqrt() * (x_t - schedule.alpha[-1] * mean) / spread


@pytest.mark.parametrize(("name", "order"), [("ddim", 1.0), ("dpmpp_2m", 2.0), ("heun", 2.0)])
@pytest.mark.parametrize("kind", [Linear(), Cosine(), Sigmoid()], ids=lambda s: s.name)
def test_order_of_convergence(kind: Linear | Cosine | Sigmoid, name: str, order: float) -> None:
    """Four times the steps divide the error by 4^order; T is large, so that grids can place steps freely."""
    schedule = DiscreteSchedule.of(kind, 4000)
    few, many = 40, 160  # heun: the gain of longer steps is limited
    errors = [
        (run_table(DETERMINISTIC[name](schedule, n), NOISE, GAUSSIAN.posterior_mean) - flow(schedule, NOISE))
        .abs()
        .max()
        for n in (few, many)
    ]
    measured = math.log(errors[0] / errors[1]) / math.log(many / few)
    assert measured > order - 0.25, measured


@ON_ALL
@pytest.mark.parametrize(("name", "tolerance"), [("ddim", 5e-3), ("dpmpp_2m", 2e-3), ("heun", 2e-3)])
def test_the_limit_is_the_exact_flow(schedule: DiscreteSchedule, name: str, tolerance: float) -> None:
    out = run_table(DETERMINISTIC[name](schedule, 1000), NOISE, GAUSSIAN.posterior_mean)
    torch.testing.assert_close(out, flow(schedule, NOISE), rtol=0, atol=tolerance)


TO_MOMENTS = {
    "ancestral": lambda d: ancestral(d, 500),
    "ancestral-large": lambda d: ancestral(d, 1000, "large"),
    "ddim": lambda d: ddim(d, 250),
    "ddim-eta": lambda d: ddim(d, 500, eta=0.5),
    "dpmpp_2m": lambda d: dpmpp_2m(d, 60),
    "heun": lambda d: heun(d, 60),
}


@pytest.mark.parametrize("table", TO_MOMENTS.values(), ids=TO_MOMENTS)
def test_a_mixture_is_reproduced(table: Callable[[DiscreteSchedule], Tensor]) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, dtype=torch.float64, generator=g)
    x = (x - x.mean()) / x.std()
    out = run_table(table(SCHEDULES["cosine"]), x, MIXTURE.posterior_mean, g)
    torch.testing.assert_close(out.mean(0), MIXTURE.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(out.var(0), MIXTURE.variance, rtol=0.04, atol=0)
    weight = (out < 0).double().mean().item()
    assert weight == pytest.approx(0.3, abs=0.025)
    torch.testing.assert_close(out[out > 0.1].std().item(), 0.1, rtol=0.06, atol=0)


SHARP = [GaussianMixture.line([1.0], [0.3], [std]) for std in (1.0, 0.2, 0.05)]
SMALL = {f"{kind.name}-25": DiscreteSchedule.of(kind, 25) for kind in (Linear(), Cosine(), Sigmoid(), Learned())}


def error(table: Tensor, prior_std: float = 1.0) -> float:
    """Return the largest 2-Wasserstein distance of samples from SHARP data with the exact net, in data deviations."""
    found = []
    for data in SHARP:
        mean, variance = table.new_zeros(2), torch.diag(table.new_tensor([prior_std**2, 0.0]))  # of (x, x̂0⁻)
        for row in table:
            of_x = row[Column.alpha] * data.variance / (row[Column.alpha] ** 2 * data.variance + row[Column.sigma] ** 2)
            x_0 = torch.stack([of_x[0], table.new_zeros(())])
            offset = ((1 - of_x * row[Column.alpha]) * data.mean)[0]
            x = row[Column.a] * table.new_tensor([1.0, 0.0]) + row[Column.b] * x_0
            x = x + row[Column.c] * table.new_tensor([0.0, 1.0])
            step = torch.stack([x, x_0])
            mean = step @ mean + torch.stack([row[Column.b] * offset, offset])
            variance = step @ variance @ step.T
            variance[0, 0] += row[Column.s] ** 2
        std = data.variance[0].sqrt()
        found.append(float(torch.hypot(mean[0] - data.mean[0], variance[0, 0].clamp(min=0).sqrt() - std) / std))
    return max(found)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), *SMALL.values()], ids=[*SCHEDULES, *SMALL])
@pytest.mark.parametrize("table", [*DETERMINISTIC.values(), ancestral], ids=[*DETERMINISTIC, "ancestral"])
def test_no_number_of_steps_is_an_outlier(
    schedule: DiscreteSchedule, table: Callable[[DiscreteSchedule, int], Tensor]
) -> None:
    """With the exact net no number of steps is worse than one step (a constant), or than twice both neighbours."""
    errors = [error(table(schedule, n)) for n in range(1, min(schedule.T, 25) + 1)]
    assert max(errors) < 1.02
    for before, here, after in zip(errors, errors[1:], errors[2:], strict=False):
        assert here < max(0.03, 2 * before, 2 * after)


@ON_ALL
def test_ancestral_on_all_steps_is_the_posterior(schedule: DiscreteSchedule) -> None:
    table, k = ancestral(schedule, 1000), torch.arange(1000, 0, -1)
    q = posterior(schedule, k)
    for column, known in (
        (Column.t, k.double() / 1000),
        (Column.alpha, schedule.alpha[k]),
        (Column.sigma, schedule.sigma[k]),
        (Column.a, q.coef_x),
        (Column.b, q.coef_x0),
        (Column.c, torch.zeros(1000, dtype=torch.float64)),
        (Column.s, schedule.posterior_variance[k].sqrt()),
    ):
        torch.testing.assert_close(table[:, column], known, rtol=1e-7, atol=1e-14)


@ON_ALL
@pytest.mark.parametrize("variance", [Variance.SMALL, Variance.LARGE])
def test_ancestral_is_algorithm_2_of_ho(schedule: DiscreteSchedule, variance: Variance) -> None:
    """x_{k−1} = (x − beta_k/sqrt(1 − alpha_bar_k)·eps)/sqrt(alpha_k) + sigma_k·z, unclipped, and no z at k = 1."""
    table, k = ancestral(schedule, 1000, variance), torch.arange(1000, 0, -1)
    beta = (1 - schedule.alpha_bar[k] / schedule.alpha_bar[k - 1])[:, None]
    bar, before = schedule.alpha_bar[k, None], schedule.alpha_bar[k - 1, None]
    x, eps, z = torch.randn(3, 1000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = bar.sqrt() * x + (1 - bar).sqrt() * eps + z  # any x, not the one made with eps
    sigma = (beta * {Variance.SMALL: (1 - before) / (1 - bar), Variance.LARGE: (k > 1)[:, None]}[variance]).sqrt()
    expected = (x - beta / (1 - bar).sqrt() * eps) / (1 - beta).sqrt() + sigma * z
    by = spread(table, x)
    x_0 = PREDICTIONS["eps"].to_x_0(eps, x, by[Column.alpha], by[Column.sigma])
    torch.testing.assert_close(apply(by, x, x_0, None, z), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [7, 40, 100])
def test_ancestral_respaced_draws_the_exact_marginals_of_one_datum(steps: int) -> None:
    """For data of one point, the chain has the marginals q(x_k | x_0) at every k of its grid."""
    d = DiscreteSchedule.of(Linear(), 100)
    table, ks, x_0 = ancestral(d, steps), respace(100, steps), 0.8
    mean, variance = d.alpha[100] * x_0, d.sigma[100] ** 2
    for row, k in zip(table, ks[1:], strict=True):
        mean = row[Column.a] * mean + row[Column.b] * x_0
        variance = row[Column.a] ** 2 * variance + row[Column.s] ** 2
        torch.testing.assert_close(mean, d.alpha[k] * x_0)
        torch.testing.assert_close(variance, d.sigma[k] ** 2, rtol=1e-9, atol=1e-14)


@ON_ALL
@pytest.mark.parametrize("steps", [1000, 50])
def test_ddim_at_eta_1_is_ancestral(schedule: DiscreteSchedule, steps: int) -> None:
    torch.testing.assert_close(ddim(schedule, steps, eta=1.0), ancestral(schedule, steps), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_marginals_of_one_datum(eta: float) -> None:
    d = DiscreteSchedule.of(Cosine(), 200)
    table, ks = ddim(d, 30, eta), respace(200, 30)
    alpha = table[:, Column.a] * d.alpha[ks[:-1]] + table[:, Column.b]
    variance = (table[:, Column.a] * d.sigma[ks[:-1]]) ** 2 + table[:, Column.s] ** 2
    torch.testing.assert_close(alpha, d.alpha[ks[1:]])
    torch.testing.assert_close(variance, d.sigma[ks[1:]] ** 2, rtol=1e-9, atol=1e-14)


def test_variances_large_and_learned() -> None:
    d, k = DiscreteSchedule.of(Cosine(), 60), torch.arange(60, 1, -1)
    small, large, learned = (ancestral(d, 60, name) for name in Variance)
    torch.testing.assert_close(large[:-1, Column.s] ** 2, d.beta[k])
    x = torch.zeros(59, 1, dtype=torch.float64)
    for v, same in ((-1.0, small), (1.0, large)):
        ones = torch.ones_like(x)
        torch.testing.assert_close(
            apply(spread(learned[:-1], x), x, x, None, ones, v * ones), same[:-1, Column.s, None]
        )
    middle = apply(spread(learned[:-1], x), x, x, None, torch.ones_like(x), torch.zeros_like(x))[:, 0]
    torch.testing.assert_close(middle.log() * 2, (d.beta[k].log() + d.posterior_variance[k].log()) / 2)  # eq. 15
    assert learned[-1, Column.s] == 0 and learned[-1, Column.r] == 0 and learned.isfinite().all()


@ON_ALL
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 999, 1000])
@pytest.mark.parametrize("table", [*DETERMINISTIC.values(), ancestral])
def test_every_table_is_finite_and_ends_at_the_prediction(
    schedule: DiscreteSchedule, steps: int, table: Callable[[DiscreteSchedule, int], Tensor]
) -> None:
    rows = table(schedule, steps)
    assert rows.isfinite().all() and rows.dtype == torch.float64
    assert rows[-1, Column.a :].tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 0]
    assert rows[0, Column.c] == 0  # the first row lacks a previous prediction
    assert len(rows) == (2 * steps - 1 if table is heun else steps)


def paper_dpmpp_2m(schedule: DiscreteSchedule, ks: list[int], x: Tensor, denoise: Callable[..., Tensor]) -> Tensor:
    """Return Lu et al. 2022 (DPM-Solver++), algorithm 2, line by line; then x̂0 at the last time."""
    alpha, sigma = schedule.alpha, schedule.sigma
    lamda = [(alpha[k] / sigma[k]).log() for k in ks]
    buffer = [denoise(x, alpha[ks[0]], sigma[ks[0]])]
    for i in range(1, len(ks)):
        h = lamda[i] - lamda[i - 1]
        D = buffer[-1]
        if i > 1:
            r = (lamda[i - 1] - lamda[i - 2]) / h
            D = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = sigma[ks[i]] / sigma[ks[i - 1]] * x - alpha[ks[i]] * (torch.exp(-h) - 1) * D
        buffer.append(denoise(x, alpha[ks[i]], sigma[ks[i]]))
    return buffer[-1]


def paper_heun(schedule: DiscreteSchedule, ks: list[int], x: Tensor, denoise: Callable[..., Tensor]) -> Tensor:
    """Return Karras et al. 2022 (EDM), algorithm 1 with s(t) = 1 and sigma(t) = t, on y = x/alpha.

    The correction is (w_r - w_k)/2·(slope(guess, r) - d) = gain/alpha_r·(x̂0 - x̂0⁻); its gain is limited to 1/2.
    """
    w = schedule.sigma / schedule.alpha

    def slope(y: Tensor, k: int) -> Tensor:
        return (y - denoise(schedule.alpha[k] * y, schedule.alpha[k], schedule.sigma[k])) / w[k]

    y = x / schedule.alpha[ks[0]]
    for k, r in itertools.pairwise(ks):
        d = slope(y, k)
        guess = y + (w[r] - w[k]) * d
        gain = schedule.alpha[r] * (w[k] - w[r]) / (2 * w[r])
        y = guess + (w[r] - w[k]) / 2 * (slope(guess, r) - d) * min(1.0, 0.5 / float(gain))
    return y - w[ks[-1]] * slope(y, ks[-1])


@ON_ALL
@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize(("table", "paper"), [(dpmpp_2m, paper_dpmpp_2m), (heun, paper_heun)], ids=["dpmpp_2m", "heun"])
def test_tables_equal_the_algorithms_of_the_papers(
    schedule: DiscreteSchedule, spacing: str, table: Callable[..., Tensor], paper: Callable[..., Tensor]
) -> None:
    for steps in (1, 2, 15):
        ks = grid(schedule.log_snr, steps, spacing)[:-1].tolist()
        expected = paper(schedule, ks, NOISE, MIXTURE.posterior_mean)
        out = run_table(table(schedule, steps, spacing), NOISE, MIXTURE.posterior_mean)
        torch.testing.assert_close(out, expected, rtol=1e-7, atol=1e-8)


@ON_ALL
@pytest.mark.parametrize("name", GRIDS)
def test_grids_fall_from_noise_to_data(schedule: DiscreteSchedule, name: str) -> None:
    for steps in [*range(1, 60), 333, 998, 999, 1000]:
        ks = grid(schedule.log_snr, steps, name)
        assert len(ks) == steps + 1 and ks[0] == 1000 and ks[-1] == 0 and (ks.diff() < 0).all()
    tiny = DiscreteSchedule.of(Linear(), 21)
    assert all((grid(tiny.log_snr, n, name).diff() < 0).all() for n in range(1, 22))


def test_the_log_snr_grid_is_equidistant() -> None:
    d = DiscreteSchedule.of(Linear(), 20_000)
    gaps = d.log_snr[grid(d.log_snr, 12, "log_snr")[:-1]].diff()
    inner = gaps[:-2]  # T allows no finer grid near data
    assert inner.max() / inner.min() < 1.05


def test_apply_equals_the_formula_of_its_row() -> None:
    """Rows of a batch use different tables in float32; compared with the explicit sum in float64."""
    g = torch.Generator().manual_seed(0)
    d = SCHEDULES["cosine"]
    rows = torch.stack([ancestral(d, 10, "learned")[3], heun(d, 10)[5], dpmpp_2m(d, 10)[4], ddim(d, 10, 0.5)[0]])
    x, x_0, prev, z = torch.randn(4, 4, 3, 8, 8, generator=g)
    v = torch.rand(4, 3, 8, 8, generator=g)
    before = x.clone()
    _, _, _, a, b, c, s, r, *_ = (column.view(4, 1, 1, 1) for column in rows.T)
    written = a * x + b * x_0 + c * prev + s * torch.exp(r * v.double()) * z
    out = apply(spread(rows, x), x, x_0, prev, z, v)
    assert out.dtype == torch.float32 and torch.equal(x, before)
    torch.testing.assert_close(out, written.float(), rtol=2e-6, atol=2e-6)
    for i in range(4):  # other rows do not change a row
        row, *parts = (part[i, None] for part in (rows, x, x_0, prev, z, v))
        single = apply(spread(row, x), *parts)
        assert torch.equal(single[0], out[i])


def test_dpmpp_first_order_is_ddim() -> None:
    d = SCHEDULES["linear"]
    torch.testing.assert_close(dpmpp_2m(d, 2, "uniform")[0], ddim(d, 2)[0])
    assert posterior_between(d.alpha[5], d.sigma[5], d.alpha[5], d.sigma[5]).variance == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: ddim(d, 0), r"1 … 1000"),
        (lambda d: heun(d, 1001), r"1 … 1000"),
        (lambda d: ancestral(d, -3), r"1 … 1000"),
        (lambda d: ddim(d, 10, eta=1.5), r"eta: 1.5"),
        (lambda d: ancestral(d, 10, "smal"), r"did you mean 'small'"),
        (lambda d: dpmpp_2m(d, 10, "log-snr"), r"did you mean 'log_snr'"),
    ],
)
def test_errors_are_named(call: Callable[[DiscreteSchedule], Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(SCHEDULES["cosine"])
