"""The discrete family on joint distributions whose exact results are known."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.generate import generate
from gen_ray.errors import UserError
from gen_ray.experiment import parse
from gen_ray.family import Family
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths.chain import Chain, Known
from gen_ray.maths.discrete_schedules import on_grid
from gen_ray.maths.discrete_steppers import ResamplingStepper, UnmaskingStepper
from gen_ray.maths.discrete_tables import Resample, Unmask
from gen_ray.maths.noise import RowNoise
from tests.families.cases import awake, rng
from tests.families.discrete_oracle import (
    CausalOracle,
    Joint,
    Lookup,
    MaskOracle,
    UniformOracle,
    Uniforms,
    seeded,
    surprise,
    total_variation,
    two_sample_surprise,
)

JOINT = Joint.random(K=3, D=3)
MASKS = MaskOracle(JOINT)
CPU = torch.device("cpu")
ENOUGH = 2000


def family(kernel: Any, joint: Joint = JOINT, **net: Any) -> Family:
    spec = DataSpec(name="joint", kind="tokens", shape=(joint.D,), levels=joint.K)
    return parse({"name": "x", "family": {"name": "discrete", "kernel": kernel, "net": net}}).model(spec)


def uniform(joint: Joint = JOINT, **settings: Any) -> tuple[Family, nn.Module]:
    model = family({"name": "uniform", **settings}, joint)
    return model, UniformOracle(joint, on_grid(model.config.kernel.schedule, model.config.kernel.steps, joint.K))


def walked(model: Family, net: nn.Module, text: str, steps: int | None = None, n: int = ENOUGH) -> Tensor:
    return generate(net, model.chain(text, steps), n, seed=3, device=CPU, batch_size=1000).long()


# ---- bounds ---------------------------------------------------------------------------------------------------------


def enumerated(net: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Return the bound with every set of masked positions instead of random ones, (B,)."""
    D, total = x.shape[1], torch.zeros(len(x), dtype=torch.float64)
    for n in range(1, D + 1):
        sets = [torch.zeros(D, dtype=torch.bool).index_fill(0, torch.tensor(s), True) for s in _subsets(D, n)]
        each = [bounds.masked_nats(net, x, s.expand(x.shape), int(net.joint.K)) for s in sets]
        total += weights[n - 1] * torch.stack(each).double().mean(0)
    return total


def _subsets(D: int, n: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(D), n))


def test_with_the_true_posterior_the_continuous_bound_equals_the_likelihood() -> None:
    """Every order of revealing is a chain rule, so the bound is exact for every example."""
    found = enumerated(MASKS, JOINT.sequences, bounds.count_weights(JOINT.D))
    torch.testing.assert_close(found, -JOINT.p.log(), rtol=1e-5, atol=1e-5)


def test_with_the_true_posterior_the_bound_of_t_steps_falls_to_the_entropy() -> None:
    mean = {
        T: float(JOINT.p @ enumerated(MASKS, JOINT.sequences, bounds.count_weights(3, on_grid(SCHEDULE, T, 3))))
        for T in (1, 4, 40, 4000)
    }
    assert mean[1] > mean[4] > mean[40] > mean[4000] > JOINT.entropy - 1e-6
    assert mean[4000] == pytest.approx(JOINT.entropy, abs=1e-3)


SCHEDULE = family("absorbing").config.kernel.schedule
CONTINUOUS = [
    "absorbing",
    {"name": "absorbing", "schedule": "cosine"},
    {"name": "absorbing", "schedule": "linear"},
    "random_order",
]


@pytest.mark.parametrize("kernel", CONTINUOUS, ids=str)
def test_with_the_true_posterior_the_training_loss_is_the_entropy(kernel: Any) -> None:
    """A factor of 1.03 would be an error of six standard errors."""
    model = family(kernel)
    draws = torch.stack([model.loss(MASKS, JOINT.sample(4000, i), rng(i), step=0).total.mean() for i in range(100)])
    error = float(draws.std()) / math.sqrt(len(draws))
    assert 6 * error < 0.03 * JOINT.entropy and abs(float(draws.mean()) - JOINT.entropy) < 4 * error


@pytest.mark.parametrize("kernel", CONTINUOUS, ids=str)
def test_training_losses_of_all_schedules_and_of_random_order_have_one_mean(kernel: Any) -> None:
    """Invariance in continuous time, for a net that is *not* the true posterior."""
    model, crooked = family(kernel), MaskOracle(Joint.random(3, 3, seed=1))
    x = JOINT.sample(8)
    exact = float(enumerated(crooked, x, bounds.count_weights(3)).mean())
    draws = torch.stack([model.loss(crooked, x, rng(i), step=0).total.mean() for i in range(800)]).double()
    assert abs(draws.mean() - exact) < 4 * draws.std() / math.sqrt(len(draws))
    spent = torch.stack([model.nll(crooked, x, rng(i), effort=2).nats.mean() for i in range(300)]).double()
    assert abs(spent.mean() - exact) < 4 * spent.std() / math.sqrt(len(spent))


@pytest.mark.parametrize("loss", ["vb", "hybrid"])
def test_the_discrete_time_loss_estimates_the_bound_of_its_steps(loss: str) -> None:
    model, crooked, x = (
        family({"name": "absorbing", "loss": loss, "steps": 5}),
        MaskOracle(Joint.random(3, 3, 1)),
        JOINT.sample(8),
    )
    exact = float(enumerated(crooked, x, bounds.count_weights(3, on_grid(SCHEDULE, 5, 3))).mean())
    draws = torch.stack([model.loss(crooked, x, rng(i), step=0).parts["vlb_nats"].mean() for i in range(600)]).double()
    assert abs(draws.mean() - exact) < 4 * draws.std() / math.sqrt(len(draws))
    spent = torch.stack([model.nll(crooked, x, rng(i), effort=2).nats.mean() for i in range(300)]).double()
    assert abs(spent.mean() - exact) < 4 * spent.std() / math.sqrt(len(spent))


GRIDDED = [
    ({"name": "absorbing", "loss": "vb"}, 0.0),
    ({"name": "absorbing", "loss": "hybrid"}, 0.001),
    ({"name": "absorbing", "loss": "hybrid", "ce_weight": 0.5}, 0.5),
    ({"name": "uniform", "loss": "vb"}, 0.0),
    ({"name": "uniform"}, 0.001),
    ({"name": "uniform", "ce_weight": 0.5}, 0.5),
]


@pytest.mark.parametrize(("kernel", "weight"), GRIDDED, ids=str)
def test_a_gridded_loss_is_the_bound_and_lambda_times_the_cross_entropy(kernel: dict[str, Any], weight: float) -> None:
    """D3PM's eq. 5, each part compared with its mean over all k and x_k; a factor of 1.03 would be six errors."""
    model = family({**kernel, "steps": 4})
    expected = {"absorbing": absorbing_parts, "uniform": uniform_parts}[kernel["name"]](model)
    net, each = expected.net, []
    for i in range(40):
        terms = model.loss(net, JOINT.sample(4000, i), rng(i), step=0)
        vlb, ce = terms.parts["vlb_nats"], terms.parts.get("cross_entropy_nats")
        torch.testing.assert_close(terms.total, vlb if ce is None else vlb + weight * ce)
        each.append(torch.stack([part.mean() for part in (vlb, ce) if part is not None]))
    assert (weight > 0) <= (len(each[0]) == 2)
    draws, exact = torch.stack(each).double(), torch.tensor([expected.vlb, expected.ce])[: len(each[0])]
    error = draws.std(0) / math.sqrt(len(draws))
    assert (6 * error < 0.03 * exact).all() and ((draws.mean(0) - exact).abs() < 4 * error).all()


@dataclass(frozen=True)
class Parts:
    """A net that is not the true posterior, with its exact bound and Σ −ln p(x_0|x_k) on the joint, in nats."""

    net: nn.Module
    vlb: float
    ce: float


def absorbing_parts(model: Family) -> Parts:
    """Sum over the numbers of masked positions, which are Bin(n; D, 1 − alpha_bar_k) at step k."""
    net, alpha_bar = MaskOracle(Joint.random(3, 3, seed=1)), model.process.alpha_bar.tolist()
    hidden = [1 - share for share in alpha_bar[1:]]
    pmf = [[math.comb(3, n) * h**n * (1 - h) ** (3 - n) for n in (1, 2, 3)] for h in hidden]
    mean = torch.tensor(pmf, dtype=torch.float64).mean(0)
    vlb, ce = (float(JOINT.p @ enumerated(net, JOINT.sequences, w)) for w in (model.process.weights, mean))
    return Parts(net, vlb, ce)


def uniform_parts(model: Family) -> Parts:
    """Sum over all x_k, with Bayes' rule at each position: p(x_0|x_k) ∝ p(x_0|x_k elsewhere)·q(x_k|x_0)."""
    chain, x, vlb, ce = model.process.steps, JOINT.sequences, 0.0, 0.0
    net = UniformOracle(Joint.random(3, 3, seed=1), chain.alpha_bar)
    for k in range(1, chain.T + 1):
        q = chain.alpha_bar[k] * torch.eye(3, dtype=torch.float64) + (1 - chain.alpha_bar[k]) / 3
        for x_k in x:
            share = JOINT.p * q[x, x_k].prod(1)
            here = x_k.expand(x.shape)
            vlb += float(share @ _step_nats(chain, net, here, k, x).sum(1))
            p = net(x_k[None], torch.tensor([k / chain.T]))[0].exp() * q[:, x_k].T
            p = p / p.sum(1, keepdim=True)
            ce -= float(share @ p.log()[torch.arange(3), x].sum(1)) / chain.T
    return Parts(net, vlb, ce)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "reciprocal", "mutual_information"])
@pytest.mark.parametrize("T", [2, 9])
def test_the_uniform_bound_of_one_position_is_its_entropy_for_any_steps(schedule: str, T: int) -> None:
    """For a single position the reverse chain is exact, and therefore also the bound."""
    joint = Joint.random(K=4, D=1)
    model, net = uniform(joint, schedule=schedule, steps=T)
    chain = model.process.steps
    total = torch.zeros(4, dtype=torch.float64)
    for k in range(1, T + 1):
        for value, share in _outcomes(chain.alpha_bar[k], joint.K):
            total += share * _step_nats(chain, net, value, k, torch.arange(4)[:, None])[:, 0]
    assert float(joint.p @ total) == pytest.approx(joint.entropy, abs=1e-5)


def _outcomes(alpha_bar: Tensor, K: int) -> list[tuple[Tensor, Tensor]]:
    """Return every possible x_k (K, 1), and q(x_k|x_0) for x_0 = 0 … K−1."""
    q = alpha_bar * torch.eye(K, dtype=torch.float64) + (1 - alpha_bar) / K
    return [(torch.full((K, 1), v), q[:, v]) for v in range(K)]


def _step_nats(chain: bounds.UniformChain, net: nn.Module, x_k: Tensor, k: int, x: Tensor) -> Tensor:
    """Return L_{k−1} of every position (B, D) for x_k and x (B, D)."""
    a, s = chain.alpha_bar[k] / chain.alpha_bar[k - 1], chain.alpha_bar[k - 1]
    log_p = net(x_k, torch.full((len(x),), k / chain.T)).log_softmax(-1)
    return bounds.uniform_kl(log_p, x_k, x, a.expand(x.shape), s.expand(x.shape))


def test_the_uniform_bound_falls_to_the_entropy() -> None:
    x, means = JOINT.sample(400), []
    for T in (4, 500):
        model, net = uniform(steps=T)
        nats = torch.stack([model.nll(net, x, rng(i), effort=100).nats.mean() for i in range(10)]).double()
        gap = nats.mean() + JOINT.p.log()[JOINT.index(x)].mean()
        means.append((float(gap), float(nats.std() / math.sqrt(len(nats)))))
    assert means[0][0] > 0.02 and abs(means[1][0]) < 0.01 + 4 * means[1][1]


def test_an_order_bound_is_the_autoregressive_likelihood_and_sums_to_one() -> None:
    joint = Joint(3, 4, torch.full((81,), 1 / 81, dtype=torch.float64))
    model = family("order", joint, width=16, depth=2, heads=2)
    net = awake(model, noise=0.3)
    nll = model.nll(net, joint.sequences, rng(), effort=100)
    assert (nll.kind, nll.nfe) == ("ar", 1) and nll.nats.std() > 0.1
    assert float((-nll.nats.detach().double()).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_an_order_bound_is_the_sum_over_the_steps_of_its_chain() -> None:
    """At step k the last k positions are masked; x_{k−1} differs from x_k only in position D−k (D3PM, section 3.3)."""
    joint = Joint.random(3, 4)
    model = family("order", joint, width=16, depth=2, heads=2)
    net, x = awake(model, noise=0.3), joint.sequences
    steps = torch.zeros(len(x))
    for k in range(1, 5):
        x_k = x.clone()
        x_k[:, 4 - k :] = 3
        place = 4 - k
        steps -= net(x_k, torch.zeros(len(x))).log_softmax(-1)[:, place].gather(-1, x[:, place, None])[:, 0].detach()
    torch.testing.assert_close(model.nll(net, x, rng(), effort=1).nats.detach(), steps, rtol=1e-5, atol=1e-5)


# ---- samplers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "steps"), [("first_hitting", None), ("ancestral", 100), ("order", None)])
def test_samplers_of_the_absorbing_chain_draw_from_the_joint(text: str, steps: int | None) -> None:
    assert surprise(JOINT, walked(family("absorbing"), MASKS, text, steps)) < 4


@pytest.mark.parametrize("text", ["first_hitting", "order"])
def test_samplers_of_random_order_draw_from_the_joint(text: str) -> None:
    assert surprise(JOINT, walked(family("random_order"), MASKS, text)) < 4


def test_a_causal_net_draws_from_the_joint() -> None:
    assert surprise(JOINT, walked(family("order"), CausalOracle(JOINT), "order")) < 4


def test_revealing_several_positions_at_once_is_detected() -> None:
    assert surprise(JOINT, walked(family("absorbing"), MASKS, "first_hitting", 1)) > 10


@pytest.mark.parametrize("schedule", ["reciprocal", "cosine", "linear"])
def test_first_hitting_and_ancestral_have_one_distribution_and_order(schedule: str) -> None:
    """Both follow the hitting levels; with many steps positions rarely share a step, so both are exact."""
    pair, n = Joint.random(3, 2), 20_000
    model = family({"name": "absorbing", "schedule": schedule, "steps": 10_000}, pair)
    noise = Uniforms(n, seeded(0))
    start = model.chain("first_hitting").stepper.start(noise, CPU)
    (hit, hits), (drawn, times) = (
        revealed(model.chain(text, steps), Lookup(pair), start, noise)
        for text, steps in (("first_hitting", 2), ("ancestral", 100))
    )
    assert surprise(pair, hit) < 4 and surprise(pair, drawn) < 4 and two_sample_surprise(pair, hit, drawn) < 4
    assert (hits.diff() * times.diff() >= 0).all() and (times.diff() != 0).double().mean() > 0.95
    assert (start["u"].diff() * hits.diff() > 0).all()


def revealed(chain: Chain, net: nn.Module, state: dict[str, Tensor], noise: RowNoise) -> tuple[Tensor, Tensor]:
    """Return the data (B, D) at the end of a chain and the tick at which each position was revealed (B, D)."""
    ticks = torch.zeros(state["x"].shape, dtype=torch.long)
    for row in chain.table:
        ticks += state["x"] == chain.stepper.K
        state = chain.stepper.tick(net, state, row.expand(noise.batch, -1), noise)
    return chain.stepper.finish(state), ticks


RARE = 1e-9
UNMASK = (UnmaskingStepper((1,), 2), {"share": 1.0}, {"u": torch.full((6, 1), 0.5), "x": torch.full((6, 1), 2)}, Unmask)
RESAMPLE = (ResamplingStepper((1,), 2), {"alpha_bar_s": 1.0, "share": 1.0}, {"x": torch.zeros(6, 1).long()}, Resample)


@pytest.mark.parametrize(("kernel", "row", "state", "columns"), [UNMASK, RESAMPLE], ids=["unmasking", "resampling"])
def test_a_chain_draws_in_float64(kernel: Any, row: dict[str, float], state: dict[str, Tensor], columns: Any) -> None:
    """In float32 a rare symbol, of probability 1e-9, would never be drawn."""

    class Rare(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tensor([0.0, math.log(RARE)]).expand(*x.shape, 2)

    distances = torch.tensor([0.1, 0.5, 0.9, 1.1, 2.0, 40.0], dtype=torch.float64)
    noise = Uniforms(6, lambda shape: (1 - RARE * distances).view(6, *[1] * (len(shape) - 1)).expand(shape))
    table = torch.zeros(6, len(columns), dtype=torch.float64)
    for name, value in row.items():
        table[:, columns[name]] = value
    assert kernel.tick(Rare(), state, table, noise)["x"].flatten().tolist() == [1, 1, 1, 0, 0, 0]


class ConfidentNet(nn.Module):
    """Predicts symbol 0 everywhere, with the largest confidence in the middle."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 3, 3)
        logits[:, :, 0] = torch.tensor([2.0, 9.0, 4.0])
        return logits


def test_confidence_reveals_the_most_confident_position_first() -> None:
    chain = family("absorbing").chain("confidence")
    noise = RowNoise.of(0, 50)
    state = chain.stepper.tick(
        ConfidentNet(), chain.stepper.start(noise, CPU), chain.table[:1].expand(50, -1), noise.at(1)
    )
    revealed = state["x"] != JOINT.K
    assert (revealed.sum(1) == 1).all() and revealed[:, 1].float().mean() > 0.9
    hot = family("absorbing").chain("confidence:temperature=100")
    state = hot.stepper.tick(ConfidentNet(), hot.stepper.start(noise, CPU), hot.table[:1].expand(50, -1), noise.at(1))
    assert (state["x"][:, 1] != JOINT.K).float().mean() < 0.7


def test_the_noise_on_confidence_is_new_at_every_step() -> None:
    """A position that was not chosen at one step has the same chance at the next, for any hitting level."""
    hot, n = family("absorbing").chain("confidence:temperature=100"), 2000
    noise, net = RowNoise.of(0, n), ConfidentNet()
    state, rows = hot.stepper.start(noise, CPU), hot.table[:1].expand(n, -1)
    first, second = (hot.stepper.tick(net, state, rows, noise.at(tick))["x"] != JOINT.K for tick in (1, 2))
    assert float((first & second).any(1).double().mean()) == pytest.approx(1 / 3, abs=0.06)
    by_level = state["u"] == state["u"].min(1, keepdim=True).values
    assert float((first & by_level).any(1).double().mean()) == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("text", ["ancestral", "gibbs"])
def test_samplers_of_the_uniform_chain_draw_from_the_joint(text: str) -> None:
    model, net = uniform(steps=100)
    assert surprise(JOINT, walked(model, net, text)) < 4


def test_a_gibbs_corrector_keeps_and_reaches_the_distribution_of_its_level() -> None:
    model, net = uniform(steps=10)
    k = 4
    level = float(model.process.steps.alpha_bar[k])
    law, kernel = JOINT.noised(level), model.chain("gibbs").stepper
    row = torch.zeros(len(Resample), dtype=torch.float64)
    row[Resample.t], row[Resample.alpha_bar_s], row[Resample.share] = k / 10, level, 0.1
    noise = RowNoise.of(0, ENOUGH)
    right = {"x": law.sample(ENOUGH)}
    wrong = {"x": torch.zeros(ENOUGH, 3, dtype=torch.long)}
    assert surprise(law, wrong["x"]) > 100
    for tick in range(60):
        right = kernel.tick(net, right, row.expand(ENOUGH, -1), noise.at(tick))
        wrong = kernel.tick(net, wrong, row.expand(ENOUGH, -1), noise.at(1000 + tick))
    assert surprise(law, right["x"]) < 4 and surprise(law, wrong["x"]) < 4


# ---- completion -----------------------------------------------------------------------------------------------------


def known_values(known: dict[int, int], n: int = ENOUGH) -> Known:
    values, mask = torch.full((n, JOINT.D), 2), torch.zeros(n, JOINT.D, dtype=torch.bool)
    for position, value in known.items():
        values[:, position], mask[:, position] = value, True
    return Known(known=values.to(torch.uint8), mask=mask)


def completed(chain: Chain, net: nn.Module, known: dict[int, int]) -> Tensor:
    part = known_values(known)
    x = generate(net, chain, ENOUGH, seed=5, device=CPU, batch_size=1000, known=part)
    assert x.dtype == torch.uint8 and torch.equal(x[part.mask], part.known[part.mask])
    return x.long()


@pytest.mark.parametrize("known", [{1: 2}, {0: 1, 2: 0}, {0: 0, 1: 1, 2: 2}], ids=str)
@pytest.mark.parametrize(("text", "steps"), [("first_hitting", None), ("ancestral", 50), ("order", None)])
def test_masked_chains_complete_by_the_exact_conditional(known: dict[int, int], text: str, steps: int | None) -> None:
    x = completed(family("absorbing").impute(text, steps), MASKS, known)
    assert len(known) == JOINT.D or surprise(JOINT.given(known), x) < 4


def test_the_uniform_chain_completes_nearly_by_the_conditional() -> None:
    model, net = uniform(steps=60)
    known = {1: 2}
    x = completed(model.impute("gibbs"), net, known)
    assert total_variation(JOINT.given(known), x) < 0.05 < total_variation(JOINT, x)


def test_a_causal_chain_completes_by_earlier_symbols_only() -> None:
    model, net = family("order"), CausalOracle(JOINT)
    assert surprise(JOINT.given({0: 1}), completed(model.impute("order"), net, {0: 1})) < 4
    x = completed(model.impute("order"), net, {2: 0})
    first = Joint(3, 1, JOINT.p.view(3, -1).sum(1))
    assert surprise(first, x[:, :1]) < 4


@pytest.mark.parametrize(
    ("kernel", "net"),
    [("order", CausalOracle(JOINT)), ({"name": "absorbing", "steps": 10}, MASKS)],
    ids=["order", "absorbing"],
)
def test_an_imputer_states_whether_it_uses_later_symbols(kernel: Any, net: nn.Module) -> None:
    model = family(kernel)
    for name, about in model.imputers().items():
        low, high = (completed(model.impute(name), net, {2: value})[:, :2] for value in (0, 2))
        assert torch.equal(low, high) == about.causal == (kernel == "order")
        assert ("kept but not used" in about.summary) == about.causal
    assert not any(about.causal for about in model.samplers().values())


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ({"name": "order", "steps": 10}, "family.kernel.steps"),
        ({"name": "random_order", "schedule": "cosine"}, "family.kernel.schedule"),
        ({"name": "uniform", "loss": "continuous"}, "family.kernel.loss"),
        ({"name": "absorbing", "schedule": "mutual_information"}, "family.kernel.schedule"),
        ({"name": "absorbing", "ce_weight": 0.1}, "no effect without loss=hybrid"),
        ({"name": "uniform", "loss": "vb", "ce_weight": 0.1}, "no effect without loss=hybrid"),
        ({"name": "masked"}, "family.kernel"),
    ],
)
def test_settings_without_effect_are_refused(kernel: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        family(kernel)


def test_a_u_net_cannot_be_causal() -> None:
    spec = DataSpec(name="small", kind="image", shape=(1, 4, 4), levels=17)
    experiment = parse({"name": "x", "family": {"name": "discrete", "kernel": "order", "net": "unet"}})
    with pytest.raises(UserError, match="kernel=order needs a transformer"):
        experiment.model(spec)


def test_order_refuses_steps() -> None:
    with pytest.raises(UserError, match="one pass of 3 evaluations"):
        family("order").chain("order", 2)
