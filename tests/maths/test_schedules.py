"""Schedules fall from data to noise, and all quantities derived from alpha_bar agree with it."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from gen_ray.errors import UserError
from gen_ray.maths.schedules import Cosine, DiscreteSchedule, Linear, Schedule, Sigmoid

ALL = pytest.mark.parametrize("schedule", [Linear(), Cosine(), Sigmoid()], ids=lambda s: s.name)


def close(a: Tensor, b: Tensor, rtol: float = 1e-10, atol: float = 0.0) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@ALL
@pytest.mark.parametrize("T", [21, 250, 1000, 4000])
def test_identities(schedule: Linear | Cosine | Sigmoid, T: int) -> None:
    d = DiscreteSchedule.of(schedule, T)
    assert d.T == T and d.alpha_bar.dtype == torch.float64
    close(torch.cumprod(1 - d.beta, 0), d.alpha_bar, rtol=1e-9)
    close(d.alpha**2 + d.sigma**2, torch.ones(T + 1, dtype=torch.float64))
    close(torch.sigmoid(d.log_snr), d.alpha_bar)
    assert (d.log_snr.diff() < 0).all() and d.log_snr[0] == torch.inf
    assert (d.posterior_variance <= d.beta).all() and d.posterior_variance[1] == 0
    # Precisions add: q(x_{k-1} | x_k, x_0) ∝ q(x_k | x_{k-1}) q(x_{k-1} | x_0)
    precision = (1 - d.beta[2:]) / d.beta[2:] + 1 / d.sigma[1:-1] ** 2
    close(1 / d.posterior_variance[2:], precision, rtol=1e-8)


@ALL
def test_ends(schedule: Linear | Cosine | Sigmoid) -> None:
    d = DiscreteSchedule.of(schedule, 1000)
    assert d.alpha_bar[0] == 1 and d.alpha_bar[1] > 0.98 and 0 < d.alpha_bar[-1] < 1e-4


@ALL
def test_continuous_log_snr_equals_the_discrete_one(schedule: Linear | Cosine | Sigmoid) -> None:
    T = 4000
    k = torch.tensor([40, 400, 2000, 3600])
    close(schedule.log_snr(k.double() / T), DiscreteSchedule.of(schedule, T).log_snr[k], rtol=0.0, atol=0.06)
    t = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).sort().values
    assert (schedule.log_snr(t).diff() < 0).all()
    assert schedule.log_snr(t.float()).dtype == torch.float64


@ALL
def test_the_number_of_steps_does_not_change_the_noise_at_a_time(schedule: Linear | Cosine | Sigmoid) -> None:
    few, many = schedule.alpha_bar(250), schedule.alpha_bar(1000)[::4]
    close(few[:-1], many[:-1], rtol=0.0, atol=3e-3)


def test_linear_with_1000_steps_is_that_of_ho_et_al() -> None:
    d = DiscreteSchedule.of(Linear(), 1000)
    close(d.beta[1:], torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=1e-10)
    assert d.alpha_bar[-1] == pytest.approx(4.0358e-5, rel=1e-3)  # the known value of the published checkpoints


def test_cosine_is_eq_17_and_its_last_beta_is_clipped() -> None:
    d = DiscreteSchedule.of(Cosine(), 1000)
    t = torch.arange(1001, dtype=torch.float64) / 1000
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    close(d.alpha_bar[:-1], (f / f[0])[:-1], rtol=1e-9)
    assert d.beta[-1] == pytest.approx(0.999)


def test_sigmoid_is_symmetric_about_the_middle() -> None:
    alpha_bar = Sigmoid(start=-3, end=3).alpha_bar(100)
    close(alpha_bar[1:-1] + alpha_bar.flip(0)[1:-1], torch.ones(99, dtype=torch.float64))
    assert alpha_bar[-1] == 1e-9


@pytest.mark.parametrize(
    "alpha_bar", [[1.0, 0.5, 0.5], [1.0, 0.5, 0.6], [1.0, 0.5, 0.0], [0.9, 0.5], [1.0], [1.0, float("nan")]]
)
def test_an_invalid_schedule_is_refused(alpha_bar: list[float]) -> None:
    with pytest.raises(UserError, match="schedule"):
        DiscreteSchedule(torch.tensor(alpha_bar, dtype=torch.float64))


def test_too_few_steps_are_refused_with_the_minimum() -> None:
    with pytest.raises(UserError, match="at least 21"):
        Linear().alpha_bar(20)
    assert DiscreteSchedule.of(Linear(), 21).alpha_bar[-1] > 0
    for schedule in (Linear(), Cosine(), Sigmoid()):
        with pytest.raises(UserError, match="at least"):
            schedule.alpha_bar(0)


def test_configs() -> None:
    read = TypeAdapter(Schedule).validate_python
    assert read({"name": "sigmoid", "tau": 0.5}) == Sigmoid(tau=0.5)
    for wrong in ({"name": "linaer"}, {"name": "cosine", "beta_min": 1}, {"name": "sigmoid", "start": 3}):
        with pytest.raises(ValidationError):
            read(wrong)
