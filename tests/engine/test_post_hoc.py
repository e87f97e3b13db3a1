"""Post-hoc EMA: averages of other lengths, made after training from its snapshots."""

import math
import re
from pathlib import Path

import pytest
import torch

from gen_ray.engine.training import ema, post_hoc_ema
from gen_ray.engine.training.step import TrainState
from gen_ray.errors import RunError, UserError
from gen_ray.maths import power_ema
from tests.engine.tiny_models import SPEC, experiment, images, session

STEPS = 240


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, dict[str, torch.Tensor]]]:
    """Return the folder of a short training, and the true averages of three widths at its end."""
    folder = tmp_path_factory.mktemp("run")
    exp = experiment("vae", ema_snapshots=12)
    here = session(exp, folder)
    learner = TrainState(exp.model(SPEC), exp.training, here, STEPS)
    true = {width: ema.copy_for_ema(learner.module) for width in (0.05, 0.08, 0.15)}
    for step in range(STEPS):
        learner.step([images(8, seed=step)], step)
        for width, average in true.items():
            ema.update(average, learner.module, 1 - power_ema.decay(step + 1, power_ema.gamma_of(width)))
        if learner.snapshot_due(step + 1):
            here.save_snapshot(learner.pack_averages, step + 1)
    return folder, {width: average.state_dict() for width, average in true.items()} | {0.0: learner.module.state_dict()}


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].flatten().double() for name in sorted(state)])


@pytest.mark.parametrize("width", [0.05, 0.08, 0.15])
def test_an_average_without_a_snapshot_is_reconstructed(home: tuple[Path, dict], width: float) -> None:
    folder, true = home
    found = post_hoc_ema.average(folder, width)
    assert found.keys() == true[width].keys() and all(value.dtype == torch.float32 for value in found.values())
    apart = (flat(found) - flat(true[width])).norm()
    spread = (flat(true[0.05]) - flat(true[0.15])).norm()  # how much the width matters at all
    assert apart < (1e-5 if width == 0.05 else 0.05) * spread


def test_as_many_snapshots_are_kept_as_configured(home: tuple[Path, dict]) -> None:
    assert [f.name for f in sorted((home[0] / "averages").iterdir())] == [f"step-{20 * i:09d}" for i in range(1, 13)]


def test_a_run_without_snapshots_and_an_impossible_width_are_refused(home: tuple[Path, dict], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.ema_snapshots above 0"):
        post_hoc_ema.average(tmp_path, 0.1)
    with pytest.raises(UserError, match=r"`sigma_rel`: .* not 0\.5"):
        post_hoc_ema.average(home[0], 0.5)


@pytest.mark.parametrize("width", [0.01, 0.02, 0.25, 0.28])
def test_a_width_outside_the_span_of_the_snapshots_is_refused(home: tuple[Path, dict], width: float) -> None:
    """One line states the feasible widths, the residual and the limits, before any weights are read."""
    for refuse in (post_hoc_ema.residual, post_hoc_ema.average):
        with pytest.raises(
            UserError,
            match=rf"width {width:g} does not fit; .* 12 snapshots: residual 0\.\d+, limit 0\.08; width .* off",
        ) as excinfo:
            refuse(home[0], width)
    low, high = map(float, re.search(r"use one of ([\d.]+) to ([\d.]+),", str(excinfo.value)).groups())
    assert (low, high) == (0.036, 0.235)
    assert all(post_hoc_ema.residual(home[0], end) <= post_hoc_ema.MAX_RESIDUAL for end in (low, high))


def test_few_snapshots_span_few_widths(home: tuple[Path, dict]) -> None:
    first, second = post_hoc_ema.snapshot_steps(home[0])[:2]
    assert post_hoc_ema.residual(home[0], 0.05, first) < 1e-3 > post_hoc_ema.residual(home[0], 0.1, first)
    for width, at in ((0.15, first), (0.15, second), (0.03, second)):
        assert post_hoc_ema.residual(home[0], 0.15) < post_hoc_ema.MAX_RESIDUAL
        with pytest.raises(UserError, match="residual"):
            post_hoc_ema.average(home[0], width, at)


GRID = [width / 1000 for width in range(10, 288, 3)]


@pytest.mark.parametrize(("times", "span"), [(1, 0.01), (2, 0.01), (3, 0.01), (4, 0.02), (8, 0.15), (16, 0.2)])
def test_an_accepted_width_is_reconstructed_within_a_tenth(times: int, span: float) -> None:
    """Computes by quadrature the standard deviation of the summed profile and its mean (the lag of a steady drift)."""
    steps = [4800 * i // times for i in range(1, times + 1)]
    at = torch.tensor(steps, dtype=torch.float64).repeat_interleave(2) / 4800
    gammas = torch.tensor(power_ema.GAMMAS, dtype=torch.float64).repeat(times)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    accepted = []
    for width in GRID:
        gamma = power_ema.gamma_of(width)
        found = post_hoc_ema._solve(steps, gamma)
        s = at[:, None] * u ** (1 / (gammas + 1))[:, None]  # quantiles of each profile
        mean = found.coefficients @ s.mean(1)
        variance = float(found.coefficients @ ((s - mean) ** 2).mean(1))
        assert math.isclose(variance, found.width**2, rel_tol=1e-3) or (variance < 0 and math.isnan(found.width))
        if found.is_close(width, times):
            accepted.append(width)
            assert abs(variance**0.5 / width - 1) < 0.101
            assert abs((1 - float(mean)) * (gamma + 2) - 1) < 0.05
    assert max(accepted) - min(accepted) > span and {0.1, 0.049} <= set(accepted)


def test_with_few_snapshots_the_limit_bounds_the_error_of_the_weights() -> None:
    """With two snapshots, width 0.12 was wrong by 15 % of the weights' movement; the residual of the fit was 0.073."""
    for steps in ([2400, 4800], [4800]):
        for width in (0.02, 0.035, 0.07, 0.12, 0.15, 0.2, 0.25):
            assert not post_hoc_ema._solve(steps, power_ema.gamma_of(width)).is_close(width, len(steps))


def test_a_damaged_average_is_refused_by_name(home: tuple[Path, dict], tmp_path: Path) -> None:
    folder = tmp_path / "averages" / "step-000000020"
    folder.parent.mkdir()
    (home[0] / "averages" / folder.name).rename(folder)
    file = folder / "power-6.94.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(RunError, match=r"power-6\.94\.safetensors"):
        post_hoc_ema.average(tmp_path, 0.1)
