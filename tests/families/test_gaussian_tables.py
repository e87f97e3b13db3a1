"""DDPM, score-based models and VAEs on rows with missing values, compared with a known joint."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.engine.inference.generate import generate
from gen_ray.errors import UserError
from gen_ray.experiment import parse
from gen_ray.family import Family
from gen_ray.maths.chain import Known
from gen_ray.maths.features import FeatureBatch
from tests.families.cases import INCOMPLETE, TEXT, Case, awake, rng
from tests.families.gaussian_joint import PerfectDenoiser
from tests.families.rows import all_rows, boolean, category, number, random_rows, table
from tests.tabular_joint import ROWS, P, agrees, log_p, spec

CPU = torch.device("cpu")
PATTERNS = torch.tensor(list(itertools.product([True, False], repeat=3)))
X = torch.where(PATTERNS[:, None], ROWS, -1).flatten(0, 1)
"""All rows under all patterns of missing values, (192, 3)."""


def family(name: str, **settings: Any) -> Family:
    return parse({"name": "x", "family": {"name": name, "net": "mlp", **settings}}).model(spec())


def mean_nats(model: Family, net: nn.Module, x: Tensor, repeats: int, effort: int) -> tuple[Tensor, Tensor]:
    """Return the mean nats (B,) of several estimates and its standard error."""
    with torch.no_grad():
        found = torch.stack([model.nll(net, x, rng(i), effort=effort).nats.double() for i in range(repeats)])
    return found.mean(0), found.std(0) / math.sqrt(repeats)


def excess(model: Family, net: nn.Module, repeats: int, effort: int) -> tuple[Tensor, Tensor]:
    """Return nats + ln p(observed values), averaged over the rows of each pattern (8,), and its standard error."""
    nats, error = mean_nats(model, net, X, repeats, effort)
    return (nats + log_p(X)).view(8, 24).mean(1), error.view(8, 24).square().sum(1).sqrt() / 24


def test_the_bound_of_a_chain_is_that_of_the_observed_values() -> None:
    """With the perfect denoiser it exceeds −ln p(observed values) by little, for every pattern of missing values."""
    model = family("ddpm", predict="x_0", steps=500)
    above, error = excess(model, PerfectDenoiser(model, flow=False), repeats=8, effort=100)
    assert bool((above > -5 * error - 1e-3).all()) and bool((above < 0.1 + 5 * error).all())
    assert abs(float(above[-1])) < 1e-3  # nothing is observed


def test_the_density_of_a_flow_is_that_of_the_observed_values() -> None:
    model = family("score_sde", trace="exact", solver={"name": "rk4", "steps": 40})
    above, error = excess(model, PerfectDenoiser(model, flow=True), repeats=6, effort=1)
    assert bool((above.abs() < 0.06 + 5 * error).all()) and abs(float(above[-1])) < 1e-3


@pytest.mark.parametrize("name", ["ddpm", "score_sde"])
def test_imputation_follows_the_conditional(name: str) -> None:
    """Given the first column, the completions of the others have the conditional distribution of the joint."""
    model = family(name, predict="x_0", steps=100) if name == "ddpm" else family(name)
    net, n = PerfectDenoiser(model, flow=name == "score_sde"), 2000
    x = torch.tensor([[0, -1, -1], [3, -1, -1]]).repeat_interleave(n // 2, 0)
    drawn = generate(
        net, model.impute("ddim", 40), n, seed=1, device=CPU, batch_size=n, known=Known(known=x, mask=x >= 0)
    )
    for part in (slice(0, n // 2), slice(n // 2, n)):
        wanted = P * agrees(x[part][:1])[0]
        found = agrees(drawn[part]).double().mean(0)
        assert float((found - wanted / wanted.sum()).abs().sum()) / 2 < 0.06


def test_the_bound_of_missing_values_is_that_of_their_conditional() -> None:
    """−ln p(missing values | known values) of complete rows, for every pattern of known values."""
    model = family("ddpm", predict="x_0", steps=500)
    net, x, known = PerfectDenoiser(model, flow=False), ROWS.repeat(8, 1), PATTERNS.repeat_interleave(24, 0)
    with torch.no_grad():
        found = [model.masked_nll(net, x, known, rng(i), effort=100).nats.double() for i in range(8)]
    nats, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(8)
    above = (nats + log_p(x) - log_p(x.masked_fill(~known, -1))).view(8, 24).mean(1)
    error = error.view(8, 24).square().sum(1).sqrt() / 24
    assert bool((above > -5 * error - 1e-3).all()) and bool((above < 0.1 + 5 * error).all())
    assert abs(float(above[0])) < 1e-3  # nothing is missing


# ---- masses of all rows ---------------------------------------------------------------------------------------------

TINY = table(boolean("a"), category("b", 4), category("c", 3), number("d", 3), name="tiny")
PARTS = [(0, 1), (0, 1, 2, 3), (1, 3), (3,)]
"""Observed columns."""


def tiny(name: str, **settings: Any) -> tuple[Family, nn.Module]:
    model = parse({"name": "x", "family": {"name": name, "net": "mlp", **settings}}).model(TINY)
    return model, awake(model, noise=0.2).requires_grad_(False)


def assignments(columns: tuple[int, ...]) -> Tensor:
    """Return all rows that differ in the observed columns, the other values missing."""
    rows = all_rows(TINY)
    missing = [column for column in range(4) if column not in columns]
    rows[:, missing] = -1
    return rows.unique(dim=0)


@pytest.mark.parametrize("columns", PARTS, ids=str)
@pytest.mark.parametrize("likelihood", ["logistic", "categorical"])
def test_the_importance_weighted_masses_of_a_vae_sum_to_one(likelihood: str, columns: tuple[int, ...]) -> None:
    """The mean of exp(−bound) is p(x_observed) itself, for every encoder."""
    model, net = tiny("vae", latent_dim=2, likelihood=likelihood, net={"name": "mlp", "hidden": [8]})
    x = assignments(columns)
    found = [model.nll(net, x, rng(i), effort=200).nats.double().neg().exp().sum() for i in range(10)]
    masses = torch.stack(found)
    assert abs(float(masses.mean()) - 1) < 5 * float(masses.std()) / math.sqrt(10) + 1e-4


@pytest.mark.parametrize("columns", PARTS, ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "ddpm", "predict": "v", "steps": 20},
        {"name": "ddpm", "predict": "x_0", "steps": 20, "variance": "learned"},
        {"name": "ddpm", "schedule": "learned", "steps": 20, "loss": "vlb"},
        {"name": "score_sde", "trace": "exact", "solver": {"name": "rk4", "steps": 8}},
        {"name": "score_sde", "sde": "ve", "solver": {"name": "rk4", "steps": 8}},
    ],
    ids=lambda settings: "-".join(map(str, list(settings.values())[:3])),
)
def test_the_masses_of_a_bound_sum_to_at_most_one(settings: dict[str, Any], columns: tuple[int, ...]) -> None:
    model, net = tiny(**settings)
    nats, error = mean_nats(model, net, assignments(columns), repeats=30, effort=20)
    mass, spread = float(nats.neg().exp().sum()), float((nats.neg().exp() * error).square().sum().sqrt())
    assert 0 < mass < 1 + 5 * spread


# ---- missing values -------------------------------------------------------------------------------------------------

SETTINGS = {
    "ddpm": Case("ddpm", "x_0-learned-simple-incomplete"),
    "ddpm-learned": Case("ddpm", "v-small-vlb-learned-discrete-incomplete"),
    "score_sde": Case("score_sde", "vp-exact-trace-incomplete"),
}


@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_features_under_the_mask_have_no_influence(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.model()
    net, x = awake(model), case.x(6)
    true = model.features.read

    def spoilt(data: Tensor) -> FeatureBatch:
        batch = true(data)
        noise = torch.rand(batch.x.shape, generator=rng(5))
        u = torch.where(batch.mask, batch.u, (noise * model.features.levels).long())
        return FeatureBatch(u=u, x=torch.where(batch.mask, batch.x, 2 * noise - 1), roles=batch.roles)

    def results() -> list[Tensor]:
        loss = model.loss(net, x, rng(), step=0).total
        gradients = torch.autograd.grad(loss.sum(), list(net.parameters()))
        return [loss.detach(), model.nll(net, x, rng(), effort=5).nats, *gradients]

    clean = results()
    monkeypatch.setattr(model.features, "read", spoilt)
    for here, there in zip(clean, results(), strict=True):
        torch.testing.assert_close(here, there)


class Reordered(nn.Module):
    """A net for features and outputs in another order."""

    def __init__(self, net: nn.Module, order: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.net, self.back, self.outputs = net, order.argsort(), outputs

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        own = torch.cat([part[:, self.back] for part in x.chunk(3, dim=1)], dim=1)
        return self.net(own, t)[:, self.outputs]


def in_order(column_of: Tensor, columns: list[int]) -> Tensor:
    """Return the places of items of these columns, in their order, where column_of is the column of each item."""
    return torch.cat([(column_of == column).nonzero().flatten() for column in columns])


@pytest.mark.parametrize(
    "settings",
    [{"name": "ddpm", "steps": 20}, {"name": "score_sde", "trace": "exact", "solver": {"name": "rk4", "steps": 6}}],
    ids=str,
)
def test_permuting_the_columns_permutes_the_answer(settings: dict[str, Any]) -> None:
    """The same net on features in another order gives the same bound, and the same parts of it by column."""
    columns = [3, 1, 0, 2]
    model, net = tiny(**settings)
    other = parse({"name": "x", "family": {"net": "mlp", **settings}}).model(
        table(*(TINY.columns[column] for column in columns))
    )
    features = model.features
    unlisted, listed = (features.column[part] for part in (features.unlisted, features.listed))
    of_levels = listed.repeat_interleave(features.levels[features.listed])
    outputs = torch.cat([in_order(unlisted, columns), len(unlisted) + in_order(of_levels, columns)])
    net_of_other = Reordered(net, in_order(features.column, columns), outputs)
    x = random_rows(TINY, 5, rng(), missing=0.3)
    nats, error = mean_nats(model, net, x, repeats=40, effort=20)
    permuted, other_error = mean_nats(other, net_of_other, x[:, columns], repeats=40, effort=20)
    assert bool(((nats - permuted).abs() < 5 * (error + other_error) + 1e-4).all())


# ---- training on incomplete rows ------------------------------------------------------------------------------------


def train(model: Family, x: Tensor, steps: int) -> nn.Module:
    torch.manual_seed(0)
    net = model.build_net().train()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for step in range(steps):
        rows = torch.randint(len(x), (256,), generator=rng(step))
        optimizer.zero_grad()
        model.loss(net, x[rows], rng(step), step=step).total.mean().backward()
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


SMALL_NET = {"name": "mlp", "width": 64, "depth": 2}
TRAINED = {
    "ddpm": ({"predict": "v", "steps": 100, "net": SMALL_NET}, 0.12),
    "score_sde": ({"predict": "v", "net": SMALL_NET}, 0.19),
    "vae": ({"latent_dim": 4, "likelihood": "categorical", "net": {"name": "mlp", "hidden": [64, 64]}}, 0.165),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_on_incomplete_rows_recovers_the_joint_of_complete_ones(name: str) -> None:
    """Of 10,000 rows 30 % of the values are missing completely at random.

    The total variation from the 24 probabilities of complete rows is 0.26 for the product of their marginals, and 0.09
    (ddpm), 0.16 (score_sde) and 0.14 (vae) for 4,000 samples after 1,500 steps.
    """
    settings, most = TRAINED[name]
    model = family(name, **settings)
    x = ROWS[torch.multinomial(P, 10_000, replacement=True, generator=rng())]
    net = train(model, x.masked_fill(torch.rand(x.shape, generator=rng(1)) < 0.3, -1), steps=1500)
    drawn = generate(net, model.chain(next(iter(model.samplers()))), 4000, seed=0, device=CPU, batch_size=4000)
    assert float((agrees(drawn).double().mean(0) - P).abs().sum()) / 2 < most


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "ddpm"},
            r"^family\.net: unet does not model data of kind table; incomplete holds table, use net 'mlp'$",
        ),
        ({"name": "score_sde", "net": "dit"}, r"^family\.net: dit does not model data of kind table"),
        ({"name": "vae", "net": "conv"}, r"^family\.net: conv does not model data of kind table"),
        (
            {"name": "vae", "likelihood": "bernoulli", "binarise": "static"},
            r"^family\.likelihood: bernoulli models black",
        ),
    ],
    ids=str,
)
def test_an_unsuitable_combination_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse({"name": "x", "family": settings}).model(INCOMPLETE)


def test_texts_are_refused_with_the_kinds_that_are_modelled() -> None:
    with pytest.raises(UserError, match=r"^family\.name: vae models data of kind image and table; text holds tokens"):
        parse({"name": "x", "family": "vae"}).model(TEXT)
