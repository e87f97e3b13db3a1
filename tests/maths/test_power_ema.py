"""Power-function averages: the profile, its width, and reconstruction, compared with known weights."""

import math

import pytest
import torch

from gen_ray.maths import power_ema


def averages(path: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the average of exponent gamma after every step of a path, by its recursion: (T, D)."""
    now, found = torch.zeros_like(path[0]), []
    for step, weights in enumerate(path, start=1):
        now = now.lerp(weights, 1 - power_ema.decay(step, gamma))
        found.append(now)
    return torch.stack(found)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97, 60.0])
def test_the_recursion_weights_by_a_power(gamma: float) -> None:
    t = 4000
    weights = averages(torch.eye(t, dtype=torch.float64), gamma)[-1]
    s = torch.arange(1, t + 1, dtype=torch.float64)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    cumulative = (s / t) ** (gamma + 1)
    torch.testing.assert_close(weights.cumsum(0), cumulative, atol=1e-9, rtol=1e-6)
    mean = float((weights * s / t).sum())
    spread = math.sqrt(float((weights * (s / t - mean) ** 2).sum()))
    assert spread == pytest.approx(power_ema.sigma_rel(gamma), rel=2e-3)


def test_the_two_tracked_averages_have_the_widths_of_the_paper() -> None:
    assert [round(power_ema.sigma_rel(gamma), 4) for gamma in power_ema.GAMMAS] == [0.1, 0.05]


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25, power_ema.sigma_rel(0.0)])
def test_gamma_and_width_are_inverse(width: float) -> None:
    assert power_ema.sigma_rel(power_ema.gamma_of(width)) == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, math.nan])
def test_an_impossible_width_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="relative width"):
        power_ema.gamma_of(width)


def test_overlap_equals_the_integral() -> None:
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * 10

    def profile(t: float, gamma: float) -> torch.Tensor:
        return torch.where(s <= t, (gamma + 1) * s**gamma / t ** (gamma + 1), 0.0)

    low, high = (3.0, 2.0), (7.0, 5.0)
    for a, b in ((low, high), (high, low), ((4.0, 17.0), (4.0, 1.0)), ((9.0, 0.0), (2.0, 8.0))):
        expected = float((profile(*a) * profile(*b)).sum() * 10 / 200_000)
        found = power_ema.overlap(*(torch.tensor(x, dtype=torch.float64) for x in (*a, *b)))
        assert float(found) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("width", "n"), [(0.02, 8), (0.08, 4), (0.2, 8), (0.25, 8), (0.2, 2)])
def test_the_residual_is_the_distance_of_the_profiles(width: float, n: int) -> None:
    s = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000 * n

    def profile(t: float, gamma: float) -> torch.Tensor:
        return torch.where(s <= t, (gamma + 1) * (s / t) ** gamma / t, 0.0)

    times = torch.arange(1, n + 1, dtype=torch.float64).repeat(2)
    gammas = torch.tensor(power_ema.GAMMAS, dtype=torch.float64).repeat_interleave(n)
    gamma = power_ema.gamma_of(width)
    parts = power_ema.coefficients(times, gammas, n, gamma)
    fitted = sum(c * profile(*of) for c, *of in zip(parts.tolist(), times.tolist(), gammas.tolist(), strict=True))
    expected = float((fitted - profile(n, gamma)).norm() / profile(n, gamma).norm())
    assert power_ema.residual(times, gammas, n, gamma, parts) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.08, 0.1, 0.15, 0.2])
def test_a_few_snapshots_reconstruct_any_other_average(width: float) -> None:
    """On a noisy path of 4,096 steps with 16 snapshots, the reconstruction is exact within 5 %."""
    rng = torch.Generator().manual_seed(0)
    t, d = 4096, 200
    drift = torch.linspace(0, 1, t, dtype=torch.float64)[:, None].sqrt() * torch.randn(d, generator=rng).double()
    path = drift + torch.randn(t, d, generator=rng).double()
    snapshots = [averages(path, gamma) for gamma in power_ema.GAMMAS]
    at = torch.arange(256, t + 1, 256)
    stored = torch.cat([average[at - 1] for average in snapshots])
    gammas = torch.tensor(power_ema.GAMMAS, dtype=torch.float64).repeat_interleave(len(at))
    c = power_ema.coefficients(at.double().repeat(2), gammas, t, power_ema.gamma_of(width))
    assert float(c.sum()) == pytest.approx(1, abs=1e-8)
    expected = averages(path, power_ema.gamma_of(width))[-1]
    single = min(float((average[-1] - expected).norm()) for average in snapshots)
    error = float((c @ stored - expected).norm())
    assert error < 0.05 * float(expected.norm()) and (width in (0.05, 0.1) or error < 0.5 * single)


def test_a_snapshot_is_reconstructed_exactly() -> None:
    times = torch.tensor([100.0, 200.0, 100.0, 200.0], dtype=torch.float64)
    gammas = torch.tensor([6.94, 6.94, 16.97, 16.97], dtype=torch.float64)
    found = power_ema.coefficients(times, gammas, 200.0, 16.97)
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0, 1], dtype=torch.float64), atol=1e-6, rtol=0)
