"""The discrete family on rows of a table with missing values, compared with an enumeration of a known joint."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from gen_ray.engine.inference.generate import generate
from gen_ray.experiment import parse
from gen_ray.family import Family, SupportsMarginals
from gen_ray.maths.chain import Known
from tests.families.cases import rng
from tests.tabular_joint import CARDINALITIES, ROWS, P, PerfectNet, agrees, log_p, spec

PATTERNS = list(itertools.product([True, False], repeat=3))
KERNELS = ("random_order", "absorbing", "uniform", "order")
NETS = ("columns", "columns_transformer")
CPU = torch.device("cpu")


def family(kernel: str, net: Any = "columns_transformer") -> Family:
    return parse({"name": "x", "family": {"name": "discrete", "kernel": kernel, "net": net}}).model(spec())


def hidden(pattern: tuple[bool, ...]) -> Tensor:
    """Return all rows (24, 3) with −1 where a pattern is False."""
    return torch.where(torch.tensor(pattern), ROWS, -1)


@pytest.mark.parametrize("kernel", ["random_order", "absorbing"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_likelihood_is_that_of_the_known_values(kernel: str, pattern: tuple[bool, ...]) -> None:
    """With the perfect net the bound equals −ln p(known values) in expectation, for every pattern of missing values."""
    model, x = family(kernel), hidden(pattern)
    found = [model.nll(PerfectNet(), x, rng(i), effort=3) for i in range(200)]
    nats = torch.stack([nll.nats.double() for nll in found])
    error = nats.std(0) / len(found) ** 0.5
    assert bool(((nats.mean(0) + log_p(x)).abs() <= 5 * error + 1e-6).all())
    assert found[0].kind == ("elbo-ct" if all(pattern) else "elbo-ct-partial")


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_marginals_and_completions_follow_the_exact_conditional(pattern: tuple[bool, ...]) -> None:
    model, x, n = family("random_order"), ROWS[[3, 10, 20]], 4000
    known = torch.tensor(pattern).expand(3, -1)
    assert isinstance(model, SupportsMarginals)
    p = model.marginals(PerfectNet(), x, known)
    conditional = agrees(torch.where(known, x, -1)).double() * P
    conditional /= conditional.sum(1, keepdim=True)
    for d, size in enumerate(CARDINALITIES):
        exact = torch.stack([conditional[:, ROWS[:, d] == code].sum(1) for code in range(size)], 1)
        torch.testing.assert_close(p[:, d, :size], exact)
        assert not p[:, d, size:].any()
    chain = model.impute("first_hitting")
    for i in range(3):
        held = Known(known=x[i].expand(n, -1), mask=known[i].expand(n, -1))
        rows = generate(PerfectNet(), chain, n, seed=i, device=CPU, batch_size=n, known=held).long()
        counts = agrees(rows).double().mean(0)
        assert float((counts - conditional[i]).abs().max()) < 5 * (0.25 / n) ** 0.5, "the joint, not only marginals"


@pytest.mark.parametrize(
    ("kernel", "net"),
    [(kernel, net) for kernel in KERNELS for net in NETS if (kernel, net) != ("order", "columns")],  # not causal
)
def test_samples_have_codes_of_their_column_only(kernel: str, net: str) -> None:
    model = family(kernel, net)
    chain = model.chain(next(iter(model.samplers())))
    rows = generate(model.build_net(), chain, 500, seed=0, device=CPU, batch_size=500)
    assert bool((rows < torch.tensor(CARDINALITIES)).all())
    for d, size in enumerate(CARDINALITIES):
        assert len(rows[:, d].unique()) == size


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_missing_value_is_no_target_and_its_place_does_not_matter(kernel: str) -> None:
    model = family(kernel)
    net = model.build_net()
    torch.nn.init.normal_(net.head.own, generator=rng())
    x = torch.tensor([[1, -1, 2], [-1, -1, -1], [0, 1, -1]])
    cells = model.nll(net, x, rng(), effort=3).cells
    assert cells is None or not cells[x < 0].any()
    nats = model.nll(net, x, rng(), effort=3).nats
    assert not nats[1].any()
    loss = model.loss(net, x, rng(), step=0).total
    assert not loss[1].any() and bool(loss.isfinite().all())
    loss.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(("kernel", "distance"), [("random_order", 0.05), ("uniform", 0.12)])
def test_training_on_incomplete_rows_recovers_the_joint(kernel: str, distance: float) -> None:
    """30 % of the values are missing completely at random; the samples still follow the joint of full rows.

    The ancestral sampler of ``uniform`` is less exact: it changes all columns independently in each of 100 steps.
    """
    model = family(kernel, {"name": "columns", "width": 64, "depth": 2, "dropout": 0})
    net = model.build_net()
    drawn = ROWS[torch.multinomial(P, 20_000, replacement=True, generator=rng(1))]
    x = torch.where(torch.rand(drawn.shape, generator=rng(2)) < 0.3, -1, drawn)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(800):
        batch = x[torch.randint(len(x), (256,), generator=rng(step + 10))]
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 800)
        optimizer.zero_grad()
        model.loss(net, batch, rng(step), step=step).total.mean().backward()
        optimizer.step()
    chain = model.chain(next(iter(model.samplers())))
    rows = generate(net, chain, 20_000, seed=0, device=CPU, batch_size=5000).long()
    assert float((agrees(rows).double().mean(0) - P).abs().sum() / 2) < distance, "total variation distance"
