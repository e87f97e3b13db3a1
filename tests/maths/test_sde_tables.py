"""Tables of the SDEs: exact moments on a Gaussian, the updates of the papers, and returns that keep the marginals."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.families.score_sde.samplers import LEAST, least_steps
from gen_ray.maths import tables
from gen_ray.maths.gaussian_samplers import GAUSSIAN_SAMPLERS
from gen_ray.maths.schedules import Cosine, DiscreteSchedule, Linear
from gen_ray.maths.sde import VE, VP, Sde, SubVP
from gen_ray.maths.tables import Column, Process
from gen_ray.maths.tables.rows import langevin
from tests.maths.reference_engine import run_table
from tests.maths.test_tables import error
from tests.oracles import GaussianMixture

GAUSSIAN = GaussianMixture.line([1.0], [0.3], [0.4])
SDES = {"vp": VP(), "ve": VE(sigma_max=5), "subvp": SubVP()}
PROCESSES: dict[str, Process] = {**SDES, "ddpm": DiscreteSchedule.of(Linear(), 1000)}
DEFAULTS: dict[str, Sde] = {"vp": VP(), "ve": VE(), "subvp": SubVP()}
on_every_default = pytest.mark.parametrize("sde", DEFAULTS.values(), ids=DEFAULTS)
on_every_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
on_every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def moments(table: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact mean and variance after the rows of a table (c = 0): for Gaussian data x̂_0 is affine in x."""
    for row in table:
        c = Column
        gain = row[c.alpha] * GAUSSIAN.variance / (row[c.alpha] ** 2 * GAUSSIAN.variance + row[c.sigma] ** 2)
        slope = row[c.a] + row[c.b] * gain
        mean = slope * mean + row[c.b] * (1 - gain * row[c.alpha]) * GAUSSIAN.mean
        variance = slope**2 * variance + row[c.s] ** 2
    return mean, variance


def marginal(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return alpha * GAUSSIAN.mean, alpha**2 * GAUSSIAN.variance + sigma**2


STOCHASTIC = {
    "euler_maruyama": (tables.euler_maruyama, 1.0),
    "reverse_diffusion": (tables.reverse_diffusion, 1.0),
    "ancestral": (tables.ancestral, 1.0),
    "pf_ode": (tables.pf_ode, 1.0),
    "ddim": (tables.ddim, 1.0),
}


@on_every_sde
@pytest.mark.parametrize(("table", "order"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_moments_converge_to_the_marginals(sde: Sde, table: Callable[..., Tensor], order: float) -> None:
    """A chain that starts in the exact marginal at t = 1 ends in that of t_min; the error falls as 1/steps."""
    errors = []
    for steps in (500, 2000):
        rows = table(sde, steps)
        mean, variance = moments(rows[:-1], *marginal(rows[0, Column.alpha], rows[0, Column.sigma]))
        expected = marginal(rows[-1, Column.alpha], rows[-1, Column.sigma])
        errors.append(max(float((mean - expected[0]).abs()), float((variance / expected[1] - 1).abs())))
    exact = errors[0] < 1e-4  # VE by Euler-Maruyama, whose step to t_min is almost zero
    assert exact or (errors[1] < 0.03 and math.log(errors[0] / errors[1]) / math.log(4) > order - 0.2), errors


@on_every_sde
@pytest.mark.parametrize(("table", "order"), [(tables.heun, 2.0), (tables.dpmpp_2m, 2.0), (tables.ddim, 1.0)])
def test_deterministic_tables_follow_the_flow(sde: Sde, table: Callable[..., Tensor], order: float) -> None:
    """The flow between Gaussians is the affine map of their moments; the last row is E[x_0 | x_t] at t_min."""
    x, path = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None] * sde.prior_std, sde.path(2)
    (m1, v1), (m0, v0) = (marginal(path.alpha[i], path.sigma[i]) for i in (0, 1))
    expected = GAUSSIAN.posterior_mean(m0 + (v0 / v1).sqrt() * (x - m1), path.alpha[1], path.sigma[1])
    errors = [
        float((run_table(table(sde, steps, spacing="log_snr"), x, GAUSSIAN.posterior_mean) - expected).abs().max())
        for steps in (40, 160)
    ]
    assert math.log(errors[0] / errors[1]) / math.log(4) > order - 0.25 and errors[1] < 0.02, errors


def test_reverse_diffusion_is_that_of_the_paper() -> None:
    """VP: x ← (2 − sqrt(1−beta))·x + beta·score + sqrt(beta)·z (alg. 3); VE: x ← x + V·score + sqrt(V)·z (alg. 2)."""
    d, c = DiscreteSchedule.of(Linear(), 100), Column
    rows, k = tables.reverse_diffusion(d, 100)[:-1], torch.arange(100, 1, -1)
    torch.testing.assert_close(rows[:, c.b], d.beta[k] * d.alpha[k] / d.sigma[k] ** 2)
    torch.testing.assert_close(rows[:, c.a], 2 - (1 - d.beta[k]).sqrt() - d.beta[k] / d.sigma[k] ** 2)
    torch.testing.assert_close(rows[:, c.s], d.beta[k].sqrt())
    rows = tables.reverse_diffusion(VE(), 20)[:-1]
    variance = rows[:, c.sigma] ** 2 - rows[:, c.sigma_to] ** 2
    torch.testing.assert_close(rows[:, c.s], variance.sqrt())
    torch.testing.assert_close(rows[:, c.b], variance / rows[:, c.sigma] ** 2)
    torch.testing.assert_close(rows[:, c.a] + rows[:, c.b], torch.ones(19, dtype=torch.float64))


def test_ancestral_on_ve_is_that_of_the_paper() -> None:
    """x ← x + V·score + sqrt(sigma_r²·V/sigma_t²)·z, V = sigma_t² − sigma_r² (Song et al. 2021, eq. 47)."""
    rows, c = tables.ancestral(VE(), 20)[:-1], Column
    t, r = rows[:, c.sigma] ** 2, rows[:, c.sigma_to] ** 2
    torch.testing.assert_close(rows[:, c.a], 1 - (t - r) / t)
    torch.testing.assert_close(rows[:, c.s], (r * (t - r) / t).sqrt())


@on_every_default
@pytest.mark.parametrize("name", GAUSSIAN_SAMPLERS)
def test_no_number_of_steps_is_an_outlier(sde: Sde, name: str) -> None:
    """With the exact net no allowed number of steps is worse than one step (a constant), or twice both neighbours."""
    if name == "adaptive":
        return
    fewest = LEAST.get(name, 1)
    assert least_steps(sde, name, GAUSSIAN_SAMPLERS[name].table) == fewest
    errors = {
        n: error(GAUSSIAN_SAMPLERS[name].table(sde, n), sde.prior_std) for n in range(max(1, fewest - 1), fewest + 12)
    }
    assert max(errors[n] for n in range(fewest, fewest + 12)) < 1.02
    for n in range(fewest + 1, fewest + 11):
        assert errors[n] < max(0.03, 2 * errors[n - 1], 2 * errors[n + 1])


@pytest.mark.parametrize("name", LEAST)
def test_one_step_fewer_than_the_minimum_is_worse(name: str) -> None:
    below = LEAST[name] - 1
    assert max(error(GAUSSIAN_SAMPLERS[name].table(sde, below), sde.prior_std) for sde in DEFAULTS.values()) > 1.02


OTHERS = {
    "vp-100": VP(beta_max=100),
    "vp-flat": VP(beta_min=19),
    "vp-slow": VP(beta_min=0.5, beta_max=5),
    "subvp-160": SubVP(beta_max=160),
    "ve-1e6": VE(sigma_max=1e6),
    "ve-1e17": VE(sigma_min=1e-17, sigma_max=1e17),
}


@pytest.mark.slow
@pytest.mark.parametrize("sde", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("name", LEAST)
def test_the_least_steps_are_those_of_the_parameters(sde: Sde, name: str) -> None:
    make = GAUSSIAN_SAMPLERS[name].table
    least = least_steps(sde, name, make)
    assert max(error(make(sde, n), sde.prior_std) for n in (*range(least, least + 5), 2 * least, 3 * least)) < 1.02
    if least > LEAST[name]:
        assert max(error(make(sde, n), sde.prior_std) for n in range(int(least / 1.06) - 1, least)) > 1.02


SINGLE = {
    "ancestral": lambda p: tables.ancestral(p, 40),
    "ddim": lambda p: tables.ddim(p, 40, 0.4),
    "repaint": lambda p: tables.repaint(p, 40, times=3, jump=7, spacing="log_snr"),
    "repaint_low_noise": lambda p: tables.repaint_low_noise(tables.ancestral(p, 40, spacing="log_snr"), times=7),
    "repaint-ddim": lambda p: tables.repaint(p, 40, times=2, jump=40, eta=0.0),
}


@on_every_process
@pytest.mark.parametrize("make", SINGLE.values(), ids=SINGLE)
def test_every_row_ends_in_its_stated_marginal(process: Process, make: Callable[[Process], Tensor]) -> None:
    """For data of one point the state is N(alpha_to·x_0, sigma_to²) after every row, including returns to noise."""
    table, x_0, c = make(process), 0.7, Column
    mean, variance = table[0, c.alpha] * x_0, table[0, c.sigma] ** 2
    for i, row in enumerate(table):
        if i:
            torch.testing.assert_close(row[[c.alpha, c.sigma]], table[i - 1, [c.alpha_to, c.sigma_to]])
        mean, variance = row[c.a] * mean + row[c.b] * x_0, row[c.a] ** 2 * variance + row[c.s] ** 2
        torch.testing.assert_close(mean, row[c.alpha_to] * x_0)
        torch.testing.assert_close(variance, row[c.sigma_to] ** 2, rtol=1e-7, atol=1e-12)
    assert table[-1, [c.alpha_to, c.sigma_to]].tolist() == [1, 0]


def test_repaint_repeats_every_block_the_given_number_of_times() -> None:
    d = DiscreteSchedule.of(Cosine(), 100)
    assert torch.equal(tables.repaint(d, 30, times=1), tables.ddim(d, 30, eta=1.0))
    table, plain = tables.repaint(d, 30, times=4, jump=8), tables.ddim(d, 30, eta=1.0)
    assert len(table) == 4 * 29 + 1  # the last row, which ends at a mean, occurs once
    turns = (table[1:, Column.t] > table[:-1, Column.t]).sum()
    assert turns == 3 * 4 and torch.equal(table[24:32], plain[:8])  # 3 returns in each of 4 blocks


@on_every_process
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_repaint_low_noise_returns_where_the_signal_exceeds_the_noise(process: Process, steps: int) -> None:
    """Those rows repeat ``times`` on average, rows below them once. If no row is near data, all rows return."""
    plain = tables.ancestral(process, steps, spacing="log_snr")
    assert torch.equal(tables.repaint_low_noise(plain, 1), plain)
    table, (t, at) = tables.repaint_low_noise(plain, 9), plain[:, [Column.t, Column.sigma]].T
    visits = (table[:, Column.t, None] == t).sum(0)
    assert len(table) == visits.sum() == 9 * (steps - 1) + 1 and visits[-1] == 1
    near = (at < plain[:, Column.alpha])[:-1]
    if near.any():
        assert (visits[:-1][~near] == 1).all() and visits[:-1][near].max() - visits[:-1][near].min() <= 1
    assert (table[:, Column.t].diff() <= 0).all()


@on_every_process
def test_correctors_come_before_their_predictor(process: Process) -> None:
    table, c = tables.imputing_pc(process, 10, snr=0.2, correctors=2, spacing="uniform"), Column
    assert len(table) == 30 and torch.equal(table[2::3], tables.reverse_diffusion(process, 10))
    corrector = table[0::3]
    assert torch.equal(corrector, table[1::3]) and torch.equal(corrector[:, c.alpha], corrector[:, c.alpha_to])
    x, x_0 = torch.tensor(0.4), torch.tensor(-0.2)
    score = corrector[:, c.a] * x + corrector[:, c.b] * x_0
    torch.testing.assert_close(score, (corrector[:, c.alpha] * x_0 - x) / corrector[:, c.sigma] ** 2)
    m = corrector[:, c.alpha] / table[2::3, c.alpha_to]
    torch.testing.assert_close(corrector[:, c.snr] ** 2, 0.04 * m**2)  # the factor alpha_i = 1 − beta_i of alg. 5
    ancestral = tables.ancestral_pc(process, 10)[1::2]
    torch.testing.assert_close(ancestral, tables.ancestral(process, 10), rtol=1e-6, atol=1e-9)


@on_every_process
@pytest.mark.parametrize("make", [tables.reverse_diffusion_pc, tables.ancestral_pc])
def test_correctors_of_samplers_are_langevin_steps_by_sigma(process: Process, make: Callable[..., Tensor]) -> None:
    """x ← x + eps·score + sqrt(2·eps)·z, eps = 2·(snr·sigma)²·m²: the same for every example and size."""
    table, c = make(process, 10, snr=0.2, correctors=2), Column
    corrector, m = table[0::3], table[0::3, c.alpha] / table[2::3, c.alpha_to]
    assert torch.equal(corrector, table[1::3]) and (table[:, c.snr] == 0).all()
    x, x_0, eps = 0.4, -0.2, 2 * (0.2 * corrector[:, c.sigma] * m) ** 2
    score = (corrector[:, c.alpha] * x_0 - x) / corrector[:, c.sigma] ** 2
    torch.testing.assert_close(corrector[:, c.a] * x + corrector[:, c.b] * x_0, x + eps * score)
    torch.testing.assert_close(corrector[:, c.s] ** 2, 2 * eps)


@on_every_sde
@pytest.mark.parametrize("make", [tables.reverse_diffusion_pc, tables.ancestral_pc])
@pytest.mark.parametrize("snr", [0.01, 0.16, 0.5, 1.0])
def test_correctors_keep_the_variance(sde: Sde, make: Callable[..., Tensor], snr: float) -> None:
    """The exact moments of Gaussian data hold for every number of scalars, because rows do not use norms."""
    rows = make(sde, 500, snr=snr)
    mean, variance = moments(rows[:-1], *marginal(rows[0, Column.alpha], rows[0, Column.sigma]))
    expected = marginal(rows[-1, Column.alpha], rows[-1, Column.sigma])
    assert abs(float(variance / expected[1]) - 1) < 0.05 and abs(float(mean - expected[0])) < 0.01


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_a_langevin_row_by_norms_is_the_step_of_the_paper(size: float) -> None:
    """eps = 2·snr²·D/max(‖score‖², 1/sigma²), x ← x + eps·score + sqrt(2·eps)·z; other rows do not change."""
    rng = torch.Generator().manual_seed(0)
    x, x_0, z = torch.randn(3, 2, 1, 4, 4, generator=rng)
    x, x_0 = size * x, size * x_0
    rows = torch.stack([tables.imputing_pc(VP(), 5, snr=0.3)[2], tables.ddim(VP(), 5)[1]]).float()
    out = tables.apply(langevin(tables.spread(rows, x), x, x_0), x, x_0, None, z)
    alpha, sigma, snr = (float(rows[0, c]) for c in (Column.alpha, Column.sigma, Column.snr))
    score = (alpha * x_0[0] - x[0]) / sigma**2
    norm = max(float(score.norm()), 1 / sigma)
    assert (norm == 1 / sigma) == (size < 1)
    eps = torch.tensor(2 * snr**2 * 16 / norm**2)
    torch.testing.assert_close(out[0], x[0] + eps * score + (2 * eps).sqrt() * z[0])
    single = tables.apply(tables.spread(rows[1:], x[1:]), x[1:], x_0[1:], None, z[1:])
    assert torch.equal(out[1], single[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tables.repaint(VP(), 5, times=1.5), "times=1.5 is not a whole number"),
        (lambda: tables.repaint(VP(), 5, jump=0), "jump=0"),
        (lambda: tables.ancestral_pc(VP(), 5, correctors=0.5), "correctors=0.5"),
        (lambda: tables.adaptive(VP(), 2), "steps: 2"),
        (lambda: tables.euler_maruyama(VP(), 0), "steps: 0"),
        (lambda: tables.pf_ode(VP(), 5, "log"), "unknown grid"),
    ],
)
def test_errors_are_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
