"""Completions by DDPM with the exact denoiser of a mixture: the conditional of the unknown given the known."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from gen_ray.engine.generate import generate
from gen_ray.errors import UserError
from gen_ray.family import Held
from tests.families.test_ddpm_oracle import CPU, MIXTURE, PAIR, model, oracle

N = 500
KNOWN = {"first": 64, "second": 150}
"""A level of the first pixel that says first or second component; then the other pixel is nearly a normal."""


def completed(imputer: str, steps: int, level: int) -> Tensor:
    """Return the second pixel (N,) of completions where the first is held at a level."""
    family = model(PAIR, steps=200)
    known = torch.tensor([level, 7], dtype=torch.uint8).view(1, 1, 1, 2).expand(N, -1, -1, -1)
    held = Held(known=known, mask=torch.tensor([True, False]).expand(N, 1, 1, 2))
    net = oracle(family, MIXTURE)
    x = generate(net, family.impute(imputer, steps), N, seed=1, device=CPU, batch_size=N, held=held)
    assert (x[..., 0] == level).all()
    return x[..., 1].double().flatten() / 127.5 - 1


def conditional(level: int) -> tuple[Tensor, Normal]:
    """Return the weights (2,) of the components given the first pixel, and the second pixel's normal in each."""
    x = torch.tensor(level / 127.5 - 1).double()
    joint = MIXTURE.weights.log() + Normal(MIXTURE.means[:, 0], MIXTURE.stds[:, 0]).log_prob(x)
    return joint.softmax(0), Normal(MIXTURE.means[:, 1], MIXTURE.stds[:, 1])


def distance(x: Tensor, level: int) -> float:
    """Return Kolmogorov's distance of completions (N,) from the exact conditional, times sqrt(N)."""
    weights, parts = conditional(level)
    exact = (parts.cdf(x.sort().values[:, None]) * weights).sum(1)
    place = torch.arange(N + 1).double() / N
    return math.sqrt(N) * float(torch.maximum(place[1:] - exact, exact - place[:-1]).max())


@pytest.mark.parametrize("level", KNOWN.values(), ids=KNOWN)
def test_repaint_completes_by_the_conditional(level: int) -> None:
    x = completed("repaint:times=10,jump=5", 60, level)
    weights, parts = conditional(level)
    mean = float(weights @ parts.mean)
    deviation = math.sqrt(float(weights @ (parts.variance + parts.mean**2)) - mean**2)
    assert abs(float(x.mean()) - mean) < 4 * deviation / math.sqrt(N) + 0.01
    assert float(x.std()) == pytest.approx(deviation, rel=0.12)
    assert distance(x, level) < 1.63  # p = 0.01


def test_replacement_is_cheaper_and_further_off_and_resampling_mends_it() -> None:
    """Between the two components, where what is known must be weighed."""
    cheap, some, more = (
        distance(completed(imputer, 40, 110), 110) for imputer in ("replacement", "repaint:times=4", "repaint:times=16")
    )
    assert cheap > 1.2 * some > 1.2 * 1.2 * more


def test_with_nothing_known_an_imputer_is_a_sampler_and_with_all_known_it_is_idle() -> None:
    family = model(PAIR, steps=60)
    net, known = oracle(family, MIXTURE), torch.full((N, 1, 1, 2), 99, dtype=torch.uint8)
    for filled in (False, True):
        held = Held(known=known, mask=torch.full_like(known, filled, dtype=torch.bool))
        x = generate(net, family.impute("replacement", 60), N, seed=0, device=CPU, batch_size=N, held=held)
        same = generate(net, family.chain("ancestral", 60), N, seed=0, device=CPU, batch_size=N)
        assert torch.equal(x, known if filled else same)


def test_the_cost_is_what_is_said() -> None:
    family = model(PAIR, steps=60)
    repaint = family.imputers()["repaint"]
    assert family.impute("repaint").nfe == repaint.nfe(repaint.default_steps)
    assert family.impute("repaint:times=3,jump=4", 20).nfe == 3 * 19 + 1
    for wrong in ("repaint:times=1.5", "repaint:times=0", "repaint:jump=2.5"):
        with pytest.raises(UserError, match=r"times|jump"):
            family.impute(wrong)
