"""The features of a table's rows: an invertible map, the nearest code, Bayes' rule for bits, points of cells."""

import pytest
import torch
from torch import Tensor

from gen_ray.maths import likelihoods
from gen_ray.maths.features import FeatureBatch
from gen_ray.maths.gaussian import PREDICTIONS
from gen_ray.maths.levels import nearest, scaled
from gen_ray.maths.row_features import RowFeatures

CARDINALITIES = torch.tensor([5, 9, 2, 1, 3, 1, 60_000, 16])
ORDERED = torch.tensor([True, False, False, False, True, True, False, False])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes(n: int) -> Tensor:
    """Return n rows (n, 8), the smallest and the largest codes in the first two."""
    x = (torch.rand(n, 8, generator=rng()) * CARDINALITIES).int()
    x[0], x[1] = 0, CARDINALITIES - 1
    return x


def bits_only(*cardinalities: int, spread: float = 0.0) -> RowFeatures:
    return RowFeatures(torch.tensor(cardinalities), torch.zeros(len(cardinalities), dtype=torch.bool), spread)


def test_codes_survive_the_way_there_and_back() -> None:
    features, x = RowFeatures(CARDINALITIES, ORDERED), codes(2000)
    batch = features.read(x)
    assert features.shape == (1 + 4 + 1 + 0 + 1 + 0 + 16 + 4,) and batch.x.shape == (2000, 27)
    assert bool((batch.u < features.levels).all()) and bool(batch.mask.all()) and batch.suffix == ""
    assert features.stored(batch.x).dtype == torch.int32 and torch.equal(features.stored(batch.x), x)
    assert torch.equal(features.stored(batch.x + 0.05 * torch.rand(batch.x.shape, generator=rng()) - 0.02), x)


def test_missing_values_are_masked_and_zero() -> None:
    features, x = RowFeatures(CARDINALITIES, ORDERED), codes(50)
    missing = torch.rand(x.shape, generator=rng(1)) < 0.4
    batch, full = features.read(x.masked_fill(missing, -1)), features.read(x)
    assert torch.equal(batch.mask, ~features.spread(missing)) and batch.suffix == "-partial"
    assert torch.equal(batch.x, full.x * batch.mask) and not batch.u[~batch.mask].any()
    given = features.conditioned(batch, torch.tensor([True, *[False] * 7]).expand(x.shape))
    seen = features.net_input(torch.full_like(batch.x, torch.nan).where(~batch.mask, batch.x), given.roles)
    assert seen.shape[1:] == features.input_shape
    assert torch.equal(seen, torch.cat([batch.x, given.mask.float(), given.roles.given.float()], 1))
    assert torch.equal(given.roles.given[:, 0], batch.mask[:, 0]) and torch.equal(given.mask[:, 1:], batch.mask[:, 1:])


def test_training_hides_cells_of_some_rows_and_other_uses_none() -> None:
    features, x = RowFeatures(CARDINALITIES, ORDERED), codes(4000)
    net = torch.nn.Linear(1, 1)
    batch = features.read_for_loss(x, net.train(), rng())
    hidden = ~(batch.mask | batch.roles.given)
    assert 0.25 < float(batch.roles.given.any(1).double().mean()) < 1 / 3
    assert (
        0.07 < float(hidden.any(1).double().mean()) < 0.11 and 0.4 < float(hidden[hidden.any(1)].double().mean()) < 0.7
    )
    assert bool(features.read_for_loss(x, net.eval(), rng()).mask.all())


def test_the_nearest_code_of_any_point() -> None:
    """Compared with the distances of all codes, where many patterns of bits are not a code."""
    features = bits_only(11, 6, 1, 17)
    every = torch.cartesian_prod(*(torch.arange(k) for k in (11, 6, 1, 17)))
    x = torch.randn(400, 12, generator=rng())
    wanted = every[(x[:, None] - features.read(every).x).square().sum(-1).argmin(1)]
    assert torch.equal(features.stored(x).long(), wanted)


def test_parts_of_nats_are_added_by_column() -> None:
    features = RowFeatures(CARDINALITIES, ORDERED)
    nats = torch.rand(3, 27, generator=rng())
    first = [
        nats[:, :1],
        nats[:, 1:5],
        nats[:, 5:6],
        nats[:, :0],
        nats[:, 6:7],
        nats[:, :0],
        nats[:, 7:23],
        nats[:, 23:],
    ]
    torch.testing.assert_close(features.cells(nats), torch.stack([part.sum(1) for part in first], 1))


def test_levels_of_each_feature_give_what_each_number_gives() -> None:
    levels = torch.tensor([2, 3, 17, 1000])
    u = (torch.rand(200, 4, generator=rng()) * levels).long()
    mean, scale = (torch.randn(200, 4, generator=rng(seed)) for seed in (1, 2))
    for law in (likelihoods.discretised_logistic_log_prob, likelihoods.discretised_gaussian_log_prob):
        apart = torch.stack([law(u[:, i], mean[:, i], scale[:, i], int(k)) for i, k in enumerate(levels)], 1)
        torch.testing.assert_close(law(u, mean, scale, levels), apart)
    apart = torch.stack([nearest(mean[:, i], int(k)) for i, k in enumerate(levels)], 1)
    assert torch.equal(nearest(mean, levels), apart) and torch.equal(nearest(scaled(u, levels), levels), u.float())


@pytest.mark.parametrize("spread", [0.0, 0.15, 0.6])
@pytest.mark.parametrize("kind", PREDICTIONS.values(), ids=PREDICTIONS)
def test_the_prediction_of_a_bit_is_its_exact_mean(kind: object, spread: float) -> None:
    """At x_t = alpha·x_0 + sigma·eps with x_0 ~ Σ_b p(b)·N(b, spread²), the odds of b being exp(2h)."""
    features, alpha, sigma = bits_only(2, spread=spread), torch.tensor(0.8), torch.tensor(0.5)
    x_t, h = torch.linspace(-3, 3, 13).view(-1, 1).double(), torch.tensor(0.7, dtype=torch.float64)
    b = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    v = (alpha * spread) ** 2 + sigma**2
    weight = (b * h - (x_t - alpha * b) ** 2 / (2 * v)).softmax(1)
    wanted = (weight * (b + alpha * spread**2 / v * (x_t - alpha * b))).sum(1, keepdim=True)
    output = features.prediction(h.expand_as(x_t), x_t, alpha, sigma, kind)
    torch.testing.assert_close(kind.to_x_0(output, x_t, alpha, sigma), wanted)


def test_the_prediction_of_a_bit_is_finite_near_the_data() -> None:
    features, kind = bits_only(2), PREDICTIONS["eps"]
    x_t = torch.tensor([[-1.001], [0.0], [0.999], [1.0]]).requires_grad_()
    output = features.prediction(torch.zeros(4, 1), x_t, torch.ones(()), torch.tensor(1e-4), kind)
    output.square().sum().backward()
    assert output.isfinite().all() and x_t.grad.isfinite().all()


def test_points_of_a_cell_and_their_density() -> None:
    """The mean of 1/q over points of q is the size of the cell, where q is known; points stay in their cells."""
    features = RowFeatures(torch.tensor([4, 2]), torch.tensor([True, False]), 0.3)
    batch = features.read(torch.tensor([[2, 0], [0, 1]]).repeat_interleave(20_000, 0))
    x_0, minus_log_q = features.dequantised(batch, rng())
    assert torch.equal(nearest(x_0[:, :1], 4).int()[:, 0], batch.u[:, 0].int())
    assert torch.equal(x_0[:, 1] > 0, batch.u[:, 1] == 1)
    torch.testing.assert_close(minus_log_q[:, 0], torch.full((40_000,), 2 / 3).log())
    # E_q[f/q] = ∫ f over the cell, for f the standard normal density: 1/2 for each bit
    f = torch.distributions.Normal(0.0, 1.0).log_prob(x_0[:, 1])
    inside = (x_0[:, 1].abs() - 1).abs() < 0.9  # q is tiny elsewhere, where the ratio has a large variance
    mass = torch.where(inside, (f + minus_log_q[:, 1]).exp(), 0.0).view(2, -1).mean(1)
    cdf = torch.distributions.Normal(0.0, 1.0).cdf
    torch.testing.assert_close(mass, (cdf(torch.tensor(1.9)) - cdf(torch.tensor(0.1))).expand(2), rtol=0.1, atol=0)


def test_points_of_missing_features_are_zero() -> None:
    features = RowFeatures(torch.tensor([4, 2]), torch.tensor([True, False]), 0.3)
    batch: FeatureBatch = features.read(torch.tensor([[-1, 0], [2, -1]]))
    x_0, _ = features.dequantised(batch, rng())
    assert torch.equal(x_0 != 0, batch.mask)


def test_an_estimate_is_undecided_before_the_first_evaluation() -> None:
    features = RowFeatures(torch.tensor([4, 3]), torch.tensor([True, False]))
    x_0 = torch.stack([torch.zeros(3), torch.tensor([-1.0, 1.0, -0.5])])
    assert features.estimate(x_0).tolist() == [[-1, -1], [0, 2]]
