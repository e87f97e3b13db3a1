"""Likelihood of completions by the discrete family, compared with an enumeration of all sets of masked positions."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.experiment import parse
from gen_ray.family import Family, SupportsMaskedLikelihood
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths.discrete_schedules import on_grid
from tests.families.cases import rng
from tests.families.discrete_oracle import CausalOracle, Joint, MaskOracle

JOINT = Joint.random(K=3, D=3)
CROOKED = MaskOracle(Joint.random(K=3, D=3, seed=1))
MASKS = [mask for mask in itertools.product([True, False], repeat=3) if not all(mask)]
VB = {"name": "absorbing", "loss": "vb", "steps": 5}


def family(kernel: Any) -> Family:
    spec = DataSpec(name="joint", kind="tokens", shape=(JOINT.D,), levels=JOINT.K)
    return parse({"name": "x", "family": {"name": "discrete", "kernel": kernel}}).model(spec)


def conditional(x: Tensor, known: tuple[bool, ...]) -> Tensor:
    """Return −ln p(missing symbols | known symbols) of the joint (B,), float64."""
    places = torch.tensor(known)
    agree = (x[:, None] == JOINT.sequences)[..., places].all(-1)  # (B, K^D): sequences with the same known symbols
    return (agree.double() @ JOINT.p).log() - JOINT.p.log()[JOINT.index(x)]


def enumerated(net: nn.Module, x: Tensor, known: tuple[bool, ...], weights: Tensor) -> Tensor:
    """Return the bound with every set of missing positions masked instead of random ones, (B,), float64."""
    free, total = [i for i, one in enumerate(known) if not one], torch.zeros(len(x), dtype=torch.float64)
    for n in range(1, len(free) + 1):
        sets = [torch.zeros(JOINT.D, dtype=torch.bool).index_fill(0, torch.tensor(s), True) for s in _sets(free, n)]
        nats = [bounds.masked_nats(net, x, s.expand(x.shape), JOINT.K).double() for s in sets]
        total += weights[n - 1] * torch.stack(nats).mean(0)
    return total


def _sets(free: list[int], n: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(free, n))


def drawn(model: Family, net: nn.Module, x: Tensor, mask: Tensor, effort: int, n: int = 300) -> Tensor:
    """Return independent estimates (n, B), float64."""
    assert isinstance(model, SupportsMaskedLikelihood)
    found = [model.masked_nll(net, x, mask, rng(i), effort=effort) for i in range(n)]
    return torch.stack([one.nats.double() for one in found if one is not None])


@pytest.mark.parametrize("known", MASKS, ids=str)
def test_with_the_true_posterior_the_bound_equals_the_conditional(known: tuple[bool, ...]) -> None:
    """The enumeration is written here; the next test shows that the estimate is unbiased."""
    x, m = JOINT.sequences, known.count(False)
    expected = enumerated(MaskOracle(JOINT), x, known, bounds.count_weights(m))
    torch.testing.assert_close(expected, conditional(x, known), rtol=1e-5, atol=1e-5)
    if m == 1:  # only one order is possible, so nothing is random
        found = drawn(family("absorbing"), MaskOracle(JOINT), x, torch.tensor(known).expand(x.shape), 9, n=1)[0]
        torch.testing.assert_close(found, conditional(x, known), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("known", MASKS, ids=str)
@pytest.mark.parametrize(
    ("kernel", "kind"), [("absorbing", "elbo-ct"), ("random_order", "elbo-ct"), (VB, "vlb")], ids=str
)
@pytest.mark.parametrize("effort", [1, 9])
def test_the_estimate_is_unbiased_for_a_net_that_is_not_the_posterior(
    kernel: Any, kind: str, known: tuple[bool, ...], effort: int
) -> None:
    model, x, m = family(kernel), JOINT.sample(6), known.count(False)
    mask = torch.tensor(known).expand(x.shape)
    grid = on_grid(model.config.kernel.schedule, 5, JOINT.K) if kind == "vlb" else None  # type: ignore[attr-defined]
    expected = float(enumerated(CROOKED, x, known, bounds.count_weights(m, grid)).mean())
    means = drawn(model, CROOKED, x, mask, effort).mean(1)
    assert abs(means.mean() - expected) < 4 * means.std() / math.sqrt(len(means)) + 1e-5
    nll = model.masked_nll(CROOKED, x, mask, rng(), effort=effort)  # type: ignore[attr-defined]
    assert (nll.kind, nll.nfe) == (f"{kind}-masked", min(effort, m))


@pytest.mark.parametrize("kernel", ["absorbing", "random_order", VB, "order"], ids=str)
def test_if_nothing_is_known_it_equals_the_likelihood_for_each_draw(kernel: Any) -> None:
    model, x = family(kernel), JOINT.sample(6)
    net, nothing = (CausalOracle(JOINT) if kernel == "order" else CROOKED), torch.zeros(6, 3, dtype=torch.bool)
    assert isinstance(model, SupportsMaskedLikelihood)
    found = model.masked_nll(net, x, nothing, rng(), effort=2)
    assert found is not None and torch.equal(found.nats.double(), model.nll(net, x, rng(), effort=2).nats.double())


def test_rows_may_have_different_masks_and_complete_rows_cost_nothing() -> None:
    model, x = family("absorbing"), JOINT.sequences[:4]
    mask = torch.tensor([[True, True, True], [True, False, True], [False, False, True], [False, False, False]])
    estimates = drawn(model, MaskOracle(JOINT), x, mask, effort=9, n=400)
    assert (estimates[:, 0] == 0).all()
    expected = torch.cat([conditional(row[None], tuple(known.tolist())) for row, known in zip(x, mask, strict=True)])
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert ((estimates.mean(0) - expected).abs() < 4 * error + 1e-5).all()


@pytest.mark.parametrize("known", MASKS, ids=str)
def test_an_order_is_exact_for_missing_values_at_its_end_only(known: tuple[bool, ...]) -> None:
    model, x = family("order"), JOINT.sequences
    assert isinstance(model, SupportsMaskedLikelihood)
    found = model.masked_nll(CausalOracle(JOINT), x, torch.tensor(known).expand(x.shape), rng(), effort=9)
    if known != tuple(sorted(known, reverse=True)):
        assert found is None
    else:
        assert found is not None and (found.kind, found.nfe) == ("ar-masked", 1)
        torch.testing.assert_close(found.nats.double(), conditional(x, known), rtol=1e-5, atol=1e-5)


def test_the_uniform_chain_has_no_such_bound() -> None:
    model, x = family("uniform"), JOINT.sample(2)
    assert isinstance(model, SupportsMaskedLikelihood)
    assert model.masked_nll(CROOKED, x, torch.zeros(2, 3, dtype=torch.bool), rng(), effort=2) is None
