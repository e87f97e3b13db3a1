"""Completions by DDPM with the exact denoiser of a mixture, compared with the exact conditional."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from gen_ray.engine.inference.generate import generate
from gen_ray.errors import UserError
from gen_ray.families.ddpm.model import FEWEST
from gen_ray.maths import tables
from gen_ray.maths.chain import Known
from tests.families.test_ddpm_oracle import CPU, MIXTURE, PAIR, model, oracle
from tests.maths.test_tables import error

N = 500
KNOWN = {"first": 64, "either": 110, "second": 150}
"""A level of the first pixel that says first or second component, when the other pixel is nearly a normal, or that
leaves it open: at 110 the second component has weight 0.06 and P(second pixel < 0) is 0.144."""

DEFAULTS = [("repaint_low_noise", None), ("repaint", None), ("repaint:times=10,jump=5", 60)]


def completed(imputer: str, steps: int | None, level: int) -> Tensor:
    """Return the second pixel (N,) of completions whose first pixel is known."""
    family = model(PAIR, steps=200)
    known = torch.tensor([level, 7], dtype=torch.uint8).view(1, 1, 1, 2).expand(N, -1, -1, -1)
    known_part = Known(known=known, mask=torch.tensor([True, False]).expand(N, 1, 1, 2))
    net = oracle(family, MIXTURE)
    x = generate(net, family.impute(imputer, steps), N, seed=1, device=CPU, batch_size=N, known=known_part)
    assert (x[..., 0] == level).all()
    return x[..., 1].double().flatten() / 127.5 - 1


def conditional(level: int) -> tuple[Tensor, Normal]:
    """Return the weights (2,) of the components given the first pixel, and the normal of the second pixel in each."""
    x = torch.tensor(level / 127.5 - 1).double()
    joint = MIXTURE.weights.log() + Normal(MIXTURE.means[:, 0], MIXTURE.stds[:, 0]).log_prob(x)
    return joint.softmax(0), Normal(MIXTURE.means[:, 1], MIXTURE.stds[:, 1])


def distance(x: Tensor, level: int) -> float:
    """Return the Kolmogorov distance of completions (N,) from the exact conditional, times sqrt(N).

    It is computed at the edges between levels: rounding to levels already gives 0.4 for a standard deviation of 0.08.
    """
    weights, parts = conditional(level)
    edges = (torch.arange(256).double() + 0.5) / 127.5 - 1
    found = (x[:, None] < edges).double().mean(0)
    return math.sqrt(N) * float((found - parts.cdf(edges[:, None]) @ weights).abs().max())


def moments(level: int) -> tuple[float, float]:
    """Return mean and standard deviation of the second pixel given the first."""
    weights, parts = conditional(level)
    mean = float(weights @ parts.mean)
    return mean, math.sqrt(float(weights @ (parts.variance + parts.mean**2)) - mean**2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imputer", "steps", "name"),
    [
        *[("repaint_low_noise:times=40", None, name) for name in KNOWN],
        *[(imputer, steps, name) for imputer, steps in DEFAULTS for name in ("first", "second")],
    ],
)
def test_completions_follow_the_exact_conditional(imputer: str, steps: int | None, name: str) -> None:
    level = KNOWN[name]
    x, (mean, deviation) = completed(imputer, steps, level), moments(level)
    assert abs(float(x.mean()) - mean) < 4 * deviation / math.sqrt(N) + 0.01
    assert float(x.std()) == pytest.approx(deviation, rel=0.12)
    assert distance(x, level) < 1.63  # p = 0.01


@pytest.mark.slow
def test_the_default_has_a_small_bias_for_an_ambiguous_known_part() -> None:
    """P(second pixel < 0) = 0.144 is estimated as 0.20 ± 0.02, an error of 1.2 in sqrt(N)·KS; chance adds 0.8.

    RePaint's default settings with as many evaluations have an error of 4.4 and estimate 0.33.
    """
    x, other = (
        completed(imputer, None, KNOWN["either"]) for imputer in (next(iter(model(PAIR).imputers())), "repaint")
    )
    weights, parts = conditional(KNOWN["either"])
    exact = float(parts.cdf(torch.zeros(1, dtype=torch.float64)) @ weights)
    assert abs(float((x < 0).double().mean()) - exact) < 0.11
    assert distance(x, 110) < 2.6 and distance(other, 110) > 1.3 * distance(x, 110)


@pytest.mark.slow
def test_replacement_is_cheaper_and_less_accurate_than_resampling() -> None:
    """The known part lies between the two components."""
    cheap, some, more = (
        distance(completed(imputer, 40, 110), 110) for imputer in ("replacement", "repaint:times=4", "repaint:times=16")
    )
    assert cheap > 1.2 * some > 1.2 * 1.2 * more


def test_an_imputer_samples_if_nothing_is_known_and_changes_nothing_if_all_is_known() -> None:
    family = model(PAIR, steps=60)
    net, known = oracle(family, MIXTURE), torch.full((N, 1, 1, 2), 99, dtype=torch.uint8)
    for filled in (False, True):
        known_part = Known(known=known, mask=torch.full_like(known, filled, dtype=torch.bool))
        x = generate(net, family.impute("replacement", 60), N, seed=0, device=CPU, batch_size=N, known=known_part)
        same = generate(net, family.chain("ancestral", 60), N, seed=0, device=CPU, batch_size=N)
        assert torch.equal(x, known if filled else same)


def test_the_cost_equals_the_stated_nfe() -> None:
    family = model(PAIR, steps=60)
    for name, imputer in family.imputers().items():
        assert family.impute(name).nfe == imputer.nfe(imputer.default_steps)
    for text in ("repaint:times=3,jump=4", "repaint_low_noise:times=3"):
        assert family.impute(text, 20).nfe == 3 * 19 + 1
    for wrong in ("repaint_low_noise:times=1.5", "repaint:times=1.5", "repaint:times=0", "repaint:jump=2.5"):
        with pytest.raises(UserError, match=r"times|jump"):
            family.impute(wrong)


def test_the_earlier_name_of_an_imputer_is_refused_with_its_present_name() -> None:
    with pytest.raises(UserError, match="imputer: 'focus' is now called 'repaint_low_noise'"):
        model(PAIR, steps=60).impute("focus:times=3")


SCHEDULES = {"linear": {}, "cosine": {}, "sigmoid": {}, "learned": {"loss": "vlb"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", FEWEST)
def test_an_imputer_with_few_steps_is_not_worse_than_a_constant(name: str) -> None:
    """All values are missing. With one step fewer than FEWEST it is worse for some schedule."""
    below = []
    for schedule, settings in SCHEDULES.items():
        for T in (25, 100, 1000):
            family = model(PAIR, schedule=schedule, steps=T, **settings)
            least = family.imputers()[name].least_steps
            for steps in range(least, min(least + 8, T) + 1):
                assert error(family.impute(name, steps).table) < 1.02, (schedule, T, steps)
            rows = tables.ancestral(family.schedule, least - 1, "large", spacing="log_snr")
            below.append(
                error(
                    tables.repaint_low_noise(rows, 20) if name == "repaint_low_noise" else tables.resample(rows, 10, 5)
                )
            )
    assert max(below) > 1.02
