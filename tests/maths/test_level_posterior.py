"""Bayes' rule over the levels of ordered features, compared with integrals, and the points that stand for a level."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from gen_ray.maths.gaussian import PREDICTIONS
from gen_ray.maths.level_posterior import LevelPosterior
from gen_ray.maths.levels import nearest, scaled
from gen_ray.maths.row_features import RowFeatures

LEVELS = torch.tensor([3, 6])
FREQUENCIES = torch.tensor([[0.9, 0.02, 0.08, 0, 0, 0], [0.1, 0.1, 0.5, 0.05, 0.05, 0.2]], dtype=torch.float64)
ALPHA, SIGMA = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior(spread: float) -> LevelPosterior:
    return LevelPosterior(LEVELS, FREQUENCIES, spread / (LEVELS - 1))


@pytest.mark.parametrize("spread", [0.0, 0.33])
def test_levels_and_means_are_those_of_the_joint(spread: float) -> None:
    """x_t = alpha·(level + spread·z) + sigma·eps, with log-odds besides the frequencies, on a grid of x_0."""
    model, output = posterior(spread), torch.randn(7, 9, generator=rng(), dtype=torch.float64)
    x_t = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None].expand(7, 2)
    log_p = model.log_p(output, x_t, ALPHA, SIGMA)
    mean = model.mean(log_p, x_t, ALPHA, SIGMA)
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    for f, own in enumerate(output.split(LEVELS.tolist(), dim=1)):
        K = int(LEVELS[f])
        x_0 = scaled(torch.arange(K), K).double()[:, None] + spread / (K - 1) * z  # (K, grid)
        seen = Normal(ALPHA * x_0, SIGMA).log_prob(x_t[:, f, None, None]) + Normal(0.0, 1.0).log_prob(z)
        joint = (own[..., None] + FREQUENCIES[f, :K, None].log() + seen).flatten(1).softmax(1).unflatten(1, x_0.shape)
        torch.testing.assert_close(log_p[:, f, :K].exp(), joint.sum(-1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mean[:, f], (joint * x_0).sum((1, 2)), rtol=1e-4, atol=1e-6)
        assert not log_p[:, f, K:].exp().any()


def test_points_stay_in_their_cell_and_have_the_stated_density() -> None:
    """The mean of f/q over points of q is the mass of f in the cell, where q is not tiny; h is half of its width."""
    n, h = 200_000, 1 / (LEVELS - 1)
    shift, minus_log_q = posterior(0.6).points(3 * torch.randn(n, 2, generator=rng()))  # far beyond the cell's ends
    assert bool((shift.abs() <= h * 1.00001).all())
    shift, minus_log_q = posterior(0.6).points(torch.randn(n, 2, generator=rng()))
    mass = (Normal(0.3, 0.5).log_prob(shift) + minus_log_q).exp().mean(0)
    cdf = Normal(0.3, 0.5).cdf
    torch.testing.assert_close(mass, cdf(h) - cdf(-h), rtol=0.01, atol=0)
    assert torch.equal(nearest(shift - 1, LEVELS), torch.zeros(n, 2)), "of level 0"


@pytest.mark.parametrize("kind", PREDICTIONS.values(), ids=PREDICTIONS)
def test_predictions_are_in_the_order_of_the_features(kind: object) -> None:
    """A number of few levels, a category of 4, a number of too many levels, and another one of few levels."""
    cardinalities, ordered = torch.tensor([3, 4, 1000, 6]), torch.tensor([True, False, True, True])
    frequencies = torch.zeros(4, 1000, dtype=torch.float64)
    frequencies[0, :6], frequencies[3, :6] = FREQUENCIES
    frequencies[1, :4], frequencies[2] = 1 / 4, 1 / 1000
    features = RowFeatures(cardinalities, ordered, 0.0, frequencies)
    assert features.output_channels == 3 + 9
    x_t, output = (torch.randn(5, n, generator=rng(n), dtype=torch.float64) for n in (5, 12))
    found = features.prediction(output, x_t, ALPHA, SIGMA, kind)
    log_p = posterior(0.0).log_p(output[:, 3:], x_t[:, [0, 4]], ALPHA, SIGMA)
    x_0 = kind.to_x_0(found, x_t, ALPHA, SIGMA)
    torch.testing.assert_close(x_0[:, [0, 4]], posterior(0.0).mean(log_p, x_t[:, [0, 4]], ALPHA, SIGMA))
    torch.testing.assert_close(x_0[:, 1:3], torch.tanh(output[:, :2] + ALPHA / SIGMA**2 * x_t[:, 1:3]))
    torch.testing.assert_close(found[:, 3], output[:, 2])
    u: Tensor = features.read(torch.tensor([[0, 3, 7, 2]]).expand(5, -1)).u
    nats = features.decoder_nats(u, output, x_t, ALPHA, SIGMA, torch.ones(5, 5, dtype=torch.float64))
    torch.testing.assert_close(nats[:, [0, 4]], -torch.stack([log_p[:, 0, 0], log_p[:, 1, 2]], 1))
    assert bool((nats[:, 1:4] == 1).all())
