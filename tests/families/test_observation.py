"""Observation models p(x|z) of a pixel: they sum to one, draws follow them, and their means are correct."""

import pytest
import torch
from torch import Tensor

from gen_ray.maths.observation import OBSERVATIONS, Observation

CASES = [(*pair, levels) for pair in OBSERVATIONS for levels in (2, 5, 17, 256)]
everywhere = pytest.mark.parametrize(("likelihood", "binarise", "levels"), CASES)
CHANNELS = 2


def made(likelihood: str, binarise: str | None, levels: int) -> tuple[Observation, Tensor]:
    """Return a model of two channels and parameters (3, P, 1, 2) of twelve different pixels."""
    model = OBSERVATIONS[likelihood, binarise](levels, CHANNELS)
    params = torch.randn(3, model.out_channels, 1, 2, generator=torch.Generator().manual_seed(levels))
    return model, params


def outcomes(model: Observation) -> range:
    """Return the possible values of a pixel, which are bits for a Bernoulli."""
    return range(2 if model.suffix else model.levels)


def probabilities(model: Observation, params: Tensor) -> Tensor:
    """Return p (K, B, C, H, W)."""
    shape = (len(params), CHANNELS, *params.shape[2:])
    return torch.stack([model.log_prob(torch.full(shape, u), params).exp() for u in outcomes(model)]).double()


@everywhere
def test_the_probabilities_of_a_pixel_sum_to_one(likelihood: str, binarise: str | None, levels: int) -> None:
    total = probabilities(*made(likelihood, binarise, levels)).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-5)


@everywhere
def test_drawing_is_the_inverse_of_the_distribution(likelihood: str, binarise: str | None, levels: int) -> None:
    """Of N evenly spaced u, N·p(level) ± 1 give a level; this is sharper than a chi-square test."""
    model, params = made(likelihood, binarise, levels)
    p, N = probabilities(model, params), 4000
    u = ((torch.arange(N, dtype=torch.float64) + 0.5) / N).view(N, 1, 1, 1, 1).expand(N, *p.shape[1:])
    for b in range(len(params)):
        drawn = model.draw(params[b].expand(N, *params.shape[1:]), u[:, b].contiguous())
        step = levels - 1 if model.suffix else 1  # bits are shown as black and white
        for index, outcome in enumerate(outcomes(model)):
            share = (drawn == outcome * step).double().mean(0)
            torch.testing.assert_close(share, p[index, b], rtol=0, atol=1.1 / N + 1e-5)


@everywhere
def test_float32_draws_stay_on_levels(likelihood: str, binarise: str | None, levels: int) -> None:
    model, params = made(likelihood, binarise, levels)
    for extreme in (0.0, 1e-30, 1 - 2**-24, 1.0):
        u = torch.full((len(params), CHANNELS, 1, 2), extreme)
        drawn = model.draw(params * 30, u)
        assert drawn.isfinite().all() and drawn.min() >= 0 and drawn.max() <= levels - 1
        assert (probabilities(model, params * 30)[0] < 1).any()


def test_a_level_without_probability_is_never_drawn() -> None:
    model = OBSERVATIONS["categorical", None](3, 1)
    params = torch.tensor([-1e4, 0.0, -1e4]).view(1, 3, 1, 1)
    for u in (0.0, 0.5, 1 - 2**-24):
        assert model.draw(params, torch.full((1, 1, 1, 1), u)).item() == 1


@everywhere
def test_the_mean_equals_the_sum_over_levels(likelihood: str, binarise: str | None, levels: int) -> None:
    model, params = made(likelihood, binarise, levels)
    params = params * 0.3  # the centre of a logistic is its mean only if the edges cut off little
    if likelihood == "logistic":
        params[:, CHANNELS:] -= 1.5
    mean = model.mean(params)
    p = probabilities(model, params)
    grey = torch.linspace(0, levels - 1, len(p), dtype=torch.float64).view(-1, 1, 1, 1, 1)
    assert mean.shape == p.shape[1:] and torch.equal(mean, mean.round())
    tolerance = 0.501 + (0.03 * levels if likelihood == "logistic" else 0)
    assert (mean - (p * grey).sum(0)).abs().max() <= tolerance


def test_static_binarisation_has_a_threshold_and_dynamic_is_random() -> None:
    x = torch.arange(17, dtype=torch.uint8).view(1, 1, 1, 17).expand(4000, 1, 1, 17)
    rng = torch.Generator().manual_seed(0)
    static, dynamic = (OBSERVATIONS["bernoulli", how](17, 1) for how in ("static", "dynamic"))
    assert static.prepare(x, rng)[0, 0, 0].tolist() == [0] * 9 + [1] * 8
    share = dynamic.prepare(x, rng).double().mean(0).flatten()
    expected = torch.arange(17) / 16
    assert ((share - expected).abs() <= 4 * (expected * (1 - expected) / 4000).sqrt()).all()  # 0 and 1 exactly
    assert set(static.scaled(static.prepare(x, rng)).unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_encoder_gets_values_between_minus_one_and_one(levels: int) -> None:
    scaled = OBSERVATIONS["logistic", None](levels, 1).scaled(torch.arange(levels).to(torch.uint8))
    torch.testing.assert_close(scaled, torch.linspace(-1, 1, levels))


@everywhere
@pytest.mark.filterwarnings("error")
def test_drawing_gives_no_warning(likelihood: str, binarise: str | None, levels: int) -> None:
    """Regression: torch warned about tensors that are not contiguous, such as those of the rows of a request."""
    model, params = made(likelihood, binarise, levels)
    u = torch.rand(1, CHANNELS, len(params), 2).transpose(0, 2)
    torch.set_warn_always(True)  # otherwise torch warns only once
    try:
        model.draw(params, u)
    finally:
        torch.set_warn_always(False)
