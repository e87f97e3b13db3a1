"""Promotion: the choice of samplers by cost and quality, quality metrics, sampler settings, the fingerprint."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen_ray.engine.evaluation.pareto import CostQuality, choose, pareto_front
from gen_ray.engine.evaluation.quality_metrics import WittenBell, jackknife
from gen_ray.engine.evaluation.sampler_settings import affordable, sampler_settings
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.fingerprint import build, fingerprint
from gen_ray.engine.inference.sampler_choice import SamplerChoice
from gen_ray.errors import UserError
from gen_ray.tracking.releases import Release
from tests.engine.tiny_models import CPU, model


def point(seconds: float, quality: float, error: float = 0.0, sampler: str = "s") -> CostQuality:
    return CostQuality(sampler=sampler, steps=1, nfe=1, seconds_per_sample=seconds, quality=quality, error=error)


POINTS = st.lists(st.builds(point, st.floats(1e-5, 1e2), st.floats(0, 1e3), st.floats(0, 10)), min_size=1, max_size=30)


@given(POINTS)
def test_choices_are_not_dominated_and_ordered_by_cost(points: list[CostQuality]) -> None:
    chosen = choose(points)
    fast, balanced, best = (chosen[name] for name in ("fast", "balanced", "best"))
    assert fast.seconds_per_sample <= balanced.seconds_per_sample <= best.seconds_per_sample
    for mine in chosen.values():
        assert mine in points
        assert not any(p.seconds_per_sample < mine.seconds_per_sample and p.quality <= mine.quality for p in points)
    lowest = min(points, key=lambda p: p.quality)
    assert best.quality <= lowest.quality + max(best.error, max(p.error for p in points))
    assert fast.quality <= 2 * balanced.quality + fast.error


@given(POINTS)
def test_the_front_holds_exactly_the_points_that_are_not_dominated(points: list[CostQuality]) -> None:
    def beaten(one: CostQuality) -> bool:
        a = (one.seconds_per_sample, one.quality)
        return any((b := (p.seconds_per_sample, p.quality)) != a and b[0] <= a[0] and b[1] <= a[1] for p in points)

    figures = [(p.seconds_per_sample, p.quality) for p in points]
    front = pareto_front(figures, lambda pair: pair)
    assert set(front) == {(p.seconds_per_sample, p.quality) for p in points if not beaten(p)}
    assert front == sorted(front), "the cheapest first"


def test_a_point_that_is_equal_in_one_figure_and_worse_in_the_other_is_not_on_the_front() -> None:
    points = {0: (1.0, 5.0), 1: (2.0, 3.0), 2: (2.0, 4.0), 3: (3.0, 3.0), 4: (4.0, 1.0)}
    assert pareto_front(points, points.__getitem__) == [0, 1, 4]


def test_the_knee_is_where_the_curve_bends_and_takes_errors_into_account() -> None:
    bent = [point(0.001, 100), point(0.002, 30), point(0.01, 4, 0.1), point(0.1, 3.2, 0.1), point(1.0, 3.1, 0.15)]
    chosen = choose(bent)
    assert (chosen["balanced"], chosen["best"]) == (bent[2], bent[3])  # 3.1 and 3.2 differ by less than the error
    straight = [point(0.001, 8), point(0.002, 7.9), point(0.004, 2)]
    assert choose(straight)["balanced"] is straight[2]
    assert choose(bent[:1])["balanced"] is bent[0] and choose(bent[:2])["balanced"] is bent[1]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5))
def test_the_quality_metric_of_texts_is_a_distribution_after_any_history(examples: list[list[int]]) -> None:
    judge = WittenBell(examples, 4, 3)
    for history in [(), (0,), (1, 2), *(tuple(example[:2]) for example in examples)]:
        assert sum(judge.p(history, symbol) for symbol in range(4)) == pytest.approx(1)


def test_the_quality_metric_of_texts_follows_its_formula() -> None:
    judge = WittenBell([[0, 1, 0, 2, 0, 1]], 3, 2)

    def unigram(symbol: int) -> float:  # three kinds among six symbols
        return ([3, 2, 1][symbol] + 3 / 3) / (6 + 3)

    after_zero = [(count + 2 * unigram(symbol)) / (3 + 2) for symbol, count in enumerate([0, 2, 1])]
    assert [judge.p((0,), symbol) for symbol in range(3)] == pytest.approx(after_zero)
    bits = -math.log2(unigram(0)) - math.log2(after_zero[1])
    assert float(judge.bits(torch.tensor([[0, 1]]))[0]) == pytest.approx(bits / 2)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    rows = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    figures = [jackknife(rows[i : i + 500], lambda part: float(part.mean()))[1] for i in range(0, 5000, 500)]
    assert sum(figures) / len(figures) == pytest.approx(1 / math.sqrt(500), rel=0.3)


def test_the_sampler_settings_hold_the_options_of_each_sampler() -> None:
    of = model("ddpm")
    settings = {(setting.choice.sampler, setting.choice.steps): setting.nfe for setting in sampler_settings(of.family)}
    assert settings["ddim", 20] == 20 and settings["heun", 10] == 19 and ("ancestral", 40) not in settings
    assert [d.choice for d in sampler_settings(of.family, ["ddim:eta=0.5"], [3, 6])] == [
        SamplerChoice("ddim:eta=0.5", n) for n in (3, 6)
    ]
    assert [setting.choice.sampler for setting in sampler_settings(model("vae").family)] == ["mean", "draw"]
    diffusion = model("score_sde")
    assert "euler_maruyama" in {setting.choice.sampler for setting in sampler_settings(diffusion.family)}
    least = {name: about.least_steps for name, about in diffusion.family.samplers().items()}
    assert all(setting.choice.steps >= least[setting.choice.sampler] for setting in sampler_settings(diffusion.family))
    assert {setting.choice.sampler for setting in sampler_settings(diffusion.family, steps=[20])} == {
        n for n in least if least[n] <= 20
    } - {"adaptive"}
    with pytest.raises(UserError, match="'euler_maruyama' needs at least 51 steps, got 20"):
        sampler_settings(diffusion.family, ["euler_maruyama"], [20])
    with pytest.raises(UserError, match="there is no sampler 'euler'"):
        sampler_settings(of.family, ["euler"], [3])
    with pytest.raises(UserError, match="sampler 'nosuch'; "):
        sampler_settings(of.family, ["nosuch"])
    chosen, left_out = affordable(sampler_settings(of.family), 30)
    assert sum(setting.nfe for setting in chosen) <= 30 and len(chosen) + len(left_out) == len(settings)
    assert len(affordable(sampler_settings(of.family), 0)[0]) == 1


@pytest.mark.parametrize("family", ["ddpm", "vae", "tokens"])
def test_a_fingerprint_depends_on_the_weights_only(family: str, tmp_path: Path) -> None:
    of = model(family)
    choice = SamplerChoice(next(iter(of.family.samplers())), 1 if family == "vae" else 4)
    sha = fingerprint(of, choice, CPU)
    artifact.write(tmp_path / "a", of)
    torch.manual_seed(99)
    assert fingerprint(artifact.load(tmp_path / "a"), choice, CPU) == sha and len(sha) == 64
    assert fingerprint(model(family, seed=1), choice, CPU) != sha
    assert build(of, CPU) == build(model(family, seed=1), CPU) and "torch" in build(of, CPU)


def test_a_release_is_read_back_from_its_tags_which_mlflow_takes() -> None:
    curve: Sequence[CostQuality] = [
        point(1.234e-3 * (i + 1), 100.5 / (i + 1), 0.25, f"sampler-{i % 7}") for i in range(100)
    ]
    chosen = {name: p.choice for name, p in choose(curve).items()}
    made = Release(
        version="3", mlflow_id="0" * 32, quality=chosen, metric="m", curve=curve, fingerprint="f" * 64, build="b"
    )
    tags = made.tags()
    assert max(map(len, tags.values())) <= 5000  # a version's tag in MLflow's database
    read = Release.read("3", "0" * 32, tags)
    assert read.quality == chosen and (read.metric, read.fingerprint, read.build) == ("m", "f" * 64, "b")
    for mine, theirs in zip(read.curve, curve, strict=True):
        assert mine.choice == theirs.choice and mine.quality == pytest.approx(theirs.quality, rel=1e-3)
    assert Release.read("1", "0" * 32, {}) == Release(version="1", mlflow_id="0" * 32)
