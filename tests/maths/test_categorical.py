"""Closed forms of categorical diffusion, compared with matrices, enumeration and quadrature."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gen_ray.errors import UserError
from gen_ray.maths.categorical import (
    Corruption,
    cross_entropy,
    draw,
    log_binomial,
    mutual_information,
    uniform_kl,
    uniform_x_0_nats,
)
from gen_ray.maths.discrete_bounds import count_weights
from gen_ray.maths.discrete_schedules import CosineSurvival, LinearSurvival, MutualInformation, Reciprocal, on_grid

T = 7
SMOOTH = {"reciprocal": Reciprocal(), "cosine": CosineSurvival(), "linear": LinearSurvival()}
ALL = SMOOTH | {"mutual_information": MutualInformation()}
LIMITS = {"uniform": Corruption.uniform, "absorbing": Corruption.absorbing}
on_all = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
on_smooth = pytest.mark.parametrize("schedule", SMOOTH.values(), ids=SMOOTH)
both_limits = pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
any_k = pytest.mark.parametrize("K", [2, 3, 5])


def random_p(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)


def step_matrix(corruption: Corruption, a: Tensor) -> Tensor:
    """Return D3PM's Q_t (S, S), with one row for every previous symbol."""
    S = corruption.symbols
    return a * torch.eye(S, dtype=torch.float64) + (1 - a) * corruption.limit.expand(S, S)


def chain(corruption: Corruption, K: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return alpha_bar (T+1,), the one-step matrices and their products up to k."""
    alpha_bar = on_grid(CosineSurvival(), T, K)
    steps = [step_matrix(corruption, alpha_bar[k] / alpha_bar[k - 1]) for k in range(1, T + 1)]
    products = [torch.eye(corruption.symbols, dtype=torch.float64)]
    for step in steps:
        products.append(products[-1] @ step)
    return alpha_bar, steps, products


@any_k
@both_limits
def test_the_cumulative_kernel_is_the_product_of_the_steps(limit: type, K: int) -> None:
    corruption = limit(K)
    alpha_bar, _, products = chain(corruption, K)
    p = random_p(4, K)
    for k in range(T + 1):
        wide = F.pad(p, (0, corruption.symbols - K))
        torch.testing.assert_close(corruption.cumulative(p, alpha_bar[k]), wide @ products[k])


@any_k
@both_limits
@pytest.mark.parametrize("back", [1, 3])
def test_the_posterior_equals_bayes_rule_by_enumeration(limit: type, K: int, back: int) -> None:
    corruption = limit(K)
    alpha_bar, steps, products = chain(corruption, K)
    for k in range(back, T + 1):
        between = torch.linalg.multi_dot(steps[k - back : k]) if back > 1 else steps[k - 1]
        s = torch.full((), k - back)
        for x_0 in range(K):
            for x_t in range(corruption.symbols):
                joint = products[k - back][x_0] * between[:, x_t]  # q(x_s|x_0)·q(x_t|x_s)
                if joint.sum() == 0:
                    continue
                found = corruption.reverse(
                    torch.tensor(x_t),
                    F.one_hot(torch.tensor(x_0), K).double(),
                    alpha_bar[k] / alpha_bar[s],
                    alpha_bar[s],
                )
                torch.testing.assert_close(found, joint / joint.sum())


@any_k
@both_limits
def test_the_model_is_the_mixture_of_posteriors_over_x_0(limit: type, K: int) -> None:
    """D3PM's eq. 4: p without x_t's own position, times q(x_t|x_0), is the weight of q(x_s|x_t,x_0)."""
    corruption = limit(K)
    alpha_bar, _, products = chain(corruption, K)
    p = random_p(K)
    for k in range(1, T + 1):
        a, alpha_bar_s = alpha_bar[k] / alpha_bar[k - 1], alpha_bar[k - 1]
        for x_t in range(corruption.symbols):
            at = torch.tensor(x_t)
            weights = p * products[k][:K, x_t]
            if weights.sum() == 0:
                continue
            each = [corruption.reverse(at, e, a, alpha_bar_s).nan_to_num() for e in torch.eye(K, dtype=torch.float64)]
            expected = (weights / weights.sum()) @ torch.stack(each)
            torch.testing.assert_close(corruption.reverse(at, p, a, alpha_bar_s), expected)


@any_k
@on_all
def test_kl_and_cross_entropy_of_the_uniform_chain_equal_enumeration(schedule: CosineSurvival, K: int) -> None:
    corruption, alpha_bar = Corruption.uniform(K), on_grid(schedule, T, K)
    x_0, x_t = (x.flatten() for x in torch.meshgrid(torch.arange(K), torch.arange(K), indexing="ij"))
    p = random_p(len(x_0), K)
    for k in range(1, T + 1):
        a, s, t = (v.expand(len(x_0)) for v in (alpha_bar[k] / alpha_bar[k - 1], alpha_bar[k - 1], alpha_bar[k]))
        q = corruption.reverse(x_t, F.one_hot(x_0, K).double(), a, s)
        kl = (torch.xlogy(q, q) - torch.xlogy(q, corruption.reverse(x_t, p, a, s))).sum(-1)
        torch.testing.assert_close(uniform_kl(p.log(), x_t, x_0, a, s), kl, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(uniform_kl(p.log().float(), x_t, x_0, a, s).double(), kl, rtol=1e-3, atol=2e-6)
        posterior = p * corruption.cumulative(torch.eye(K, dtype=torch.float64), t[0])[:, x_t].T
        expected = -(posterior / posterior.sum(-1, keepdim=True)).gather(-1, x_0[:, None])[:, 0].log()
        torch.testing.assert_close(uniform_x_0_nats(p.log(), x_t, x_0, t), expected)
        if k == 1:
            torch.testing.assert_close(kl, expected)


def test_kl_has_finite_gradients_at_both_ends_of_the_chain() -> None:
    alpha_bar = on_grid(Reciprocal(), T, 4)
    x_t, x_0 = torch.tensor([0, 1, 2]), torch.tensor([0, 3, 2])
    for k in (1, T):
        logits = torch.randn(3, 4, requires_grad=True)
        a, s = (v.expand(3) for v in (alpha_bar[k] / alpha_bar[k - 1], alpha_bar[k - 1]))
        uniform_kl(logits.log_softmax(-1), x_t, x_0, a, s).sum().backward()
        assert logits.grad is not None and logits.grad.isfinite().all()


# ---- draws ----------------------------------------------------------------------------------------------------------


def grid(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@both_limits
def test_corruption_has_the_stated_frequencies(limit: type) -> None:
    corruption, n = limit(4), 100_000
    for alpha_bar in (0.0, 0.3, 0.75, 1.0):
        x_t = corruption.diffuse(torch.full((n,), 2), torch.tensor(alpha_bar, dtype=torch.float64), grid(n))
        found = torch.bincount(x_t, minlength=corruption.symbols).double() / n
        expected = corruption.cumulative(F.one_hot(torch.tensor(2), 4).double(), torch.tensor(alpha_bar).double())
        torch.testing.assert_close(found, expected, rtol=0, atol=2 / n)


def test_draws_have_the_frequencies_of_the_weights() -> None:
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 4.0, 0.0], dtype=torch.float64)
    found = torch.bincount(draw(weights.expand(8000, 6), grid(8000)), minlength=6)
    assert found.tolist() == [0, 3000, 0, 1000, 4000, 0]


def test_probabilities_below_the_resolution_of_float32_are_drawn_correctly() -> None:
    rare = 1e-12
    for logits in ([0.0, math.log(rare)], [math.log(rare), 0.0]):
        weights = torch.tensor(logits, dtype=torch.float64).softmax(-1).expand(1000, 2)
        near = torch.linspace(0.5, 3.5, 1000, dtype=torch.float64) * rare
        u = near if logits[0] else 1 - near
        is_rare = draw(weights, u) == int(logits[0] == 0)
        assert abs(int(is_rare.sum()) - 1000 / 6) <= 2
    assert draw(torch.tensor([1.0, 0.0]).double(), torch.tensor(1 - 2**-53, dtype=torch.float64)) == 0


def test_cross_entropy_counts_the_chosen_positions_only() -> None:
    logits, x = torch.randn(3, 2, 4, 5), torch.randint(5, (3, 2, 4))
    where = torch.rand(3, 2, 4) < 0.5
    expected = -(logits.log_softmax(-1).gather(-1, x[..., None])[..., 0] * where).sum((1, 2))
    torch.testing.assert_close(cross_entropy(logits, x, where), expected)
    assert not cross_entropy(logits, x, torch.zeros_like(where)).any()


# ---- schedules and weights -------------------------------------------------------------------------------------------


@on_all
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_alpha_bar_falls_from_one_to_exactly_zero(schedule: CosineSurvival, steps: int) -> None:
    alpha_bar = on_grid(schedule, steps, 17)
    assert alpha_bar[0] == 1 and alpha_bar[-1] == 0 and (alpha_bar.diff() < 0).all()


@on_smooth
def test_the_rate_is_the_derivative_of_the_log_of_the_lost_share(schedule: CosineSurvival) -> None:
    t = torch.tensor([1e-6, 1e-3, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64, requires_grad=True)
    lost = 1 - schedule.alpha_bar(t, 5)
    torch.autograd.backward(lost.log().sum())
    torch.testing.assert_close(schedule.rate(t.detach()), t.grad, rtol=1e-6, atol=0)


def test_betas_of_the_reciprocal_schedule() -> None:
    alpha_bar = on_grid(Reciprocal(), 10, 3)
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    torch.testing.assert_close(beta, 1 / (10 - torch.arange(1, 11, dtype=torch.float64) + 1))


@pytest.mark.parametrize("marginal", [None, (0.5, 0.2, 0.2, 0.1), (3, 0, 1, 6)])
def test_mutual_information_falls_linearly(marginal: tuple[float, ...] | None) -> None:
    alpha_bar = on_grid(MutualInformation(marginal=marginal), 10, 4)
    p = torch.tensor(marginal or [1, 1, 1, 1], dtype=torch.float64)
    p = p / p.sum()
    entropy = -torch.xlogy(p, p).sum()
    expected = entropy * (1 - torch.arange(11, dtype=torch.float64) / 10)
    torch.testing.assert_close(mutual_information(alpha_bar, p), expected, rtol=1e-6, atol=1e-9)


def test_mutual_information_equals_that_of_the_joint_table() -> None:
    p, alpha_bar = random_p(4), torch.tensor([0.0, 0.3, 0.9, 1.0], dtype=torch.float64)
    for i, level in enumerate(alpha_bar):
        joint = p[:, None] * Corruption.uniform(4).cumulative(torch.eye(4, dtype=torch.float64), level)
        table = torch.xlogy(joint, joint) - torch.xlogy(joint, p[:, None] * joint.sum(0))
        torch.testing.assert_close(mutual_information(alpha_bar, p)[i], table.sum(), rtol=1e-9, atol=1e-12)


def test_frequencies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="3 frequencies for data of 4 levels"):
        on_grid(MutualInformation(marginal=(1, 1, 2)), 10, 4)
    with pytest.raises(ValueError, match="at least two"):
        MutualInformation(marginal=(1, 0, 0))


def test_binomial_probabilities() -> None:
    found = log_binomial(3, torch.tensor([0.0, 0.25, 1.0])).exp()
    expected = torch.tensor([[1, 0, 0, 0], [27 / 64, 27 / 64, 9 / 64, 1 / 64], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


@on_smooth
@pytest.mark.parametrize("D", [1, 5])
def test_in_continuous_time_the_weight_of_a_number_of_masks_is_the_same_for_every_schedule(
    schedule: CosineSurvival, D: int
) -> None:
    edges = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    t = (edges[1:] + edges[:-1]) / 2
    rate_times_pmf = schedule.rate(t)[:, None] * log_binomial(D, 1 - schedule.alpha_bar(t, 3)).exp()[:, 1:]
    torch.testing.assert_close(rate_times_pmf.mean(0), count_weights(D), rtol=1e-4, atol=0)


@on_smooth
def test_more_steps_tighten_the_bound_towards_continuous_time(schedule: CosineSurvival) -> None:
    """The weights over the numbers of masks add up to D positions for every schedule."""
    D = 6
    n = torch.arange(1, D + 1, dtype=torch.float64)
    found = {steps: count_weights(D, on_grid(schedule, steps, 3)) for steps in (1, 10, 3000)}
    for weights in found.values():
        torch.testing.assert_close((weights * n).sum(), torch.tensor(float(D), dtype=torch.float64))
    assert found[1].tolist() == pytest.approx([0.0] * (D - 1) + [1.0])  # one step reveals everything at once
    gaps = [(weights - count_weights(D)).abs().sum() for weights in found.values()]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 5e-3
