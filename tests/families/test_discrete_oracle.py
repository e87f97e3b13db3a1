"""The discrete family on joints where every answer is known."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.engine.generate import generate
from gen_ray.errors import UserError
from gen_ray.experiment import parse
from gen_ray.family import Chain, Family, Held
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths.discrete_schedules import on_grid
from gen_ray.maths.discrete_tables import Resample, Unmask
from gen_ray.maths.noise import RowNoise
from tests.families.cases import awake, rng
from tests.families.discrete_oracle import (
    CausalOracle,
    Joint,
    MaskOracle,
    UniformOracle,
    surprise,
    total_variation,
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
    """The bound with every set of masked places instead of random ones, (B,)."""
    D, total = x.shape[1], torch.zeros(len(x), dtype=torch.float64)
    for n in range(1, D + 1):
        sets = [torch.zeros(D, dtype=torch.bool).index_fill(0, torch.tensor(s), True) for s in _subsets(D, n)]
        each = [bounds.masked_nats(net, x, s.expand(x.shape), int(net.joint.K)) for s in sets]
        total += weights[n - 1] * torch.stack(each).double().mean(0)
    return total


def _subsets(D: int, n: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(D), n))


def test_with_the_true_posterior_the_continuous_bound_is_the_likelihood_itself() -> None:
    """Every order of revealing is a chain rule: no example loses anything."""
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


@pytest.mark.parametrize(
    "kernel",
    [
        "absorbing",
        {"name": "absorbing", "schedule": "cosine"},
        {"name": "absorbing", "schedule": "linear"},
        "random_order",
    ],
    ids=str,
)
def test_training_losses_of_all_schedules_and_of_random_order_estimate_one_number(kernel: Any) -> None:
    """Invariance in continuous time, at a net that is *not* the true posterior."""
    model, crooked = family(kernel), MaskOracle(Joint.random(3, 3, seed=1))
    x = JOINT.sample(8)
    wanted = float(enumerated(crooked, x, bounds.count_weights(3)).mean())
    draws = torch.stack([model.loss(crooked, x, rng(i), step=0).total.mean() for i in range(800)]).double()
    assert abs(draws.mean() - wanted) < 4 * draws.std() / math.sqrt(len(draws))
    spent = torch.stack([model.nll(crooked, x, rng(i), effort=2).nats.mean() for i in range(300)]).double()
    assert abs(spent.mean() - wanted) < 4 * spent.std() / math.sqrt(len(spent))


@pytest.mark.parametrize("loss", ["vb", "hybrid"])
def test_the_discrete_time_loss_estimates_the_bound_of_its_steps(loss: str) -> None:
    model, crooked, x = (
        family({"name": "absorbing", "loss": loss, "steps": 5}),
        MaskOracle(Joint.random(3, 3, 1)),
        JOINT.sample(8),
    )
    wanted = float(enumerated(crooked, x, bounds.count_weights(3, on_grid(SCHEDULE, 5, 3))).mean())
    draws = torch.stack([model.loss(crooked, x, rng(i), step=0).parts["vlb_nats"].mean() for i in range(600)]).double()
    assert abs(draws.mean() - wanted) < 4 * draws.std() / math.sqrt(len(draws))
    spent = torch.stack([model.nll(crooked, x, rng(i), effort=2).nats.mean() for i in range(300)]).double()
    assert abs(spent.mean() - wanted) < 4 * spent.std() / math.sqrt(len(spent))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "reciprocal", "mutual_information"])
@pytest.mark.parametrize("T", [2, 9])
def test_the_uniform_bound_of_one_place_is_its_entropy_however_few_the_steps(schedule: str, T: int) -> None:
    """A single place has nothing to be independent of: the reverse chain is exact, and so is the bound."""
    joint = Joint.random(K=4, D=1)
    model, net = uniform(joint, schedule=schedule, steps=T)
    chain = model.process.steps
    total = torch.zeros(4, dtype=torch.float64)
    for k in range(1, T + 1):
        for value, share in _outcomes(chain.alpha_bar[k], joint.K):
            total += share * _step_nats(chain, net, value, k)
    assert float(joint.p @ total) == pytest.approx(joint.entropy, abs=1e-5)


def _outcomes(alpha_bar: Tensor, K: int) -> list[tuple[Tensor, Tensor]]:
    """Return x_k (K, 1) for every symbol it may be, and q(x_k|x_0) for x_0 = 0 … K−1."""
    q = alpha_bar * torch.eye(K, dtype=torch.float64) + (1 - alpha_bar) / K
    return [(torch.full((K, 1), v), q[:, v]) for v in range(K)]


def _step_nats(chain: bounds.UniformChain, net: nn.Module, x_k: Tensor, k: int) -> Tensor:
    a, s = chain.alpha_bar[k] / chain.alpha_bar[k - 1], chain.alpha_bar[k - 1]
    x = torch.arange(chain.K)[:, None]
    log_p = net(x_k, torch.full((len(x),), k / chain.T)).log_softmax(-1)
    return bounds.uniform_kl(log_p, x_k, x, a.expand(x.shape), s.expand(x.shape))[:, 0]


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
    """At step k the k last places are masked; x_{k−1} differs from x_k in place D−k alone (D3PM, section 3.3)."""
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


def test_revealing_several_at_once_is_noticed() -> None:
    assert surprise(JOINT, walked(family("absorbing"), MASKS, "first_hitting", 1)) > 10


def test_first_hitting_and_ancestral_reveal_in_one_order() -> None:
    """Both follow the hitting levels, so that at many steps the same noise is nearly the same path."""
    model = family({"name": "absorbing", "steps": 100_000})
    alpha_bar = torch.linspace(1, 0, 6, dtype=torch.float64)
    noise = RowNoise.of(0, 2000)
    kernel = model.chain("ancestral", 1).kernel
    state = kernel.start(noise, CPU)
    for tick, level in enumerate(alpha_bar[1:].flip(0), start=1):
        rows = torch.zeros(2000, len(Unmask), dtype=torch.float64)
        rows[:, Unmask.survival] = level
        state = kernel.tick(MASKS, state, rows, noise.at(tick))
        assert torch.equal(state["x"] != JOINT.K, state["u"] < level)
        share = float((state["x"] != JOINT.K).double().mean())
        assert share == pytest.approx(float(level), abs=0.03)


def test_confidence_reveals_the_surest_place_first() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 3, 3)
            logits[:, :, 0] = torch.tensor([2.0, 9.0, 4.0])
            return logits

    chain = family("absorbing").chain("confidence")
    noise = RowNoise.of(0, 50)
    state = chain.kernel.tick(Sure(), chain.kernel.start(noise, CPU), chain.table[:1].expand(50, -1), noise.at(1))
    revealed = state["x"] != JOINT.K
    assert (revealed.sum(1) == 1).all() and revealed[:, 1].float().mean() > 0.9
    hot = family("absorbing").chain("confidence:temperature=100")
    state = hot.kernel.tick(Sure(), hot.kernel.start(noise, CPU), hot.table[:1].expand(50, -1), noise.at(1))
    assert (state["x"][:, 1] != JOINT.K).float().mean() < 0.7


@pytest.mark.parametrize("text", ["ancestral", "gibbs"])
def test_samplers_of_the_uniform_chain_draw_from_the_joint(text: str) -> None:
    model, net = uniform(steps=100)
    assert surprise(JOINT, walked(model, net, text)) < 4


def test_a_gibbs_corrector_leaves_the_law_of_its_level_and_finds_it_from_anywhere() -> None:
    model, net = uniform(steps=10)
    k = 4
    level = float(model.process.steps.alpha_bar[k])
    law, kernel = JOINT.noised(level), model.chain("gibbs").kernel
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


def held(known: dict[int, int], n: int = ENOUGH) -> Held:
    values, mask = torch.full((n, JOINT.D), 2), torch.zeros(n, JOINT.D, dtype=torch.bool)
    for place, value in known.items():
        values[:, place], mask[:, place] = value, True
    return Held(known=values.to(torch.uint8), mask=mask)


def completed(chain: Chain, net: nn.Module, known: dict[int, int]) -> Tensor:
    part = held(known)
    x = generate(net, chain, ENOUGH, seed=5, device=CPU, batch_size=1000, held=part)
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


def test_a_causal_chain_completes_by_what_is_known_before_and_never_by_what_comes_after() -> None:
    model, net = family("order"), CausalOracle(JOINT)
    assert surprise(JOINT.given({0: 1}), completed(model.impute("order"), net, {0: 1})) < 4
    x = completed(model.impute("order"), net, {2: 0})
    first = Joint(3, 1, JOINT.p.view(3, -1).sum(1))
    assert surprise(first, x[:, :1]) < 4


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
    model = parse({"name": "x", "family": {"name": "discrete", "kernel": "order", "net": "unet"}}).model(spec)
    with pytest.raises(UserError, match="kernel=order needs net 'tokens'"):
        model.build_net()


def test_order_takes_no_steps() -> None:
    with pytest.raises(UserError, match="one pass of 3 evaluations"):
        family("order").chain("order", 2)
