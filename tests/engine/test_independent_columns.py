"""Bits beyond marginals: exact on small joints, the same for any coding of independent columns."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.independent_columns import independent_nats
from gen_ray.tabular.columns import IntegerColumn
from tests import tabular_joint as joint

TRAINING_ROWS = 10**9
"""With this number the half value by which each count is larger does not matter."""


def spec_of(p: np.ndarray) -> DataSpec:
    """Return the spec of a table of integers whose codes have the marginals of a joint p (K_1, …, K_D)."""
    columns = tuple(
        IntegerColumn(
            name=f"column {d}", arrow_type="int64", starts=tuple(range(K)), examples=tuple((k,) for k in range(K)),
            means=tuple(map(float, range(K))),
            counts=tuple(np.rint(TRAINING_ROWS * p.sum(tuple(set(range(p.ndim)) - {d}))).astype(int).tolist()),
        )
        for d, K in enumerate(p.shape)
    )  # fmt: skip
    return DataSpec(name="joint", kind="table", shape=(p.ndim,), levels=max(p.shape), columns=columns)


def beyond_marginals(p: np.ndarray) -> Tensor:
    """Return the nats beyond marginals of a model that knows the joint p (K_1, …, K_D) of the codes, of each row."""
    rows = torch.tensor(list(itertools.product(*map(range, p.shape))))
    return -torch.from_numpy(p.ravel()).log() - independent_nats(rows, spec_of(p))


def random_joint(*shape: int) -> np.ndarray:
    p = np.exp(1.5 * np.random.default_rng(0).normal(size=shape))
    return p / p.sum()


def merged(p: np.ndarray, axis: int) -> np.ndarray:
    """Return a joint in which pairs of neighbouring codes of a column are one code."""
    return np.add.reduceat(p, np.arange(0, p.shape[axis], 2), axis)


def test_the_likelihood_of_independent_columns_is_the_product_of_smoothed_frequencies() -> None:
    spec = joint.spec()
    rows = joint.ROWS.clone()
    rows[::3, 1] = rows[::5, 0] = -1  # missing values are left out, as in the likelihood of a model
    expected = []
    for row in rows.tolist():
        terms = [
            math.log((column.counts[code] + 0.5) / (sum(column.counts) + column.cardinality / 2))
            for column, code in zip(spec.columns, row, strict=True)
            if code >= 0
        ]
        expected.append(-sum(terms))
    assert independent_nats(rows.to(torch.int16), spec).tolist() == pytest.approx(expected, rel=1e-12)
    assert independent_nats(torch.full((1, 3), -1), spec).item() == 0


def test_a_code_without_training_values_is_finite_and_a_code_of_no_value_is_an_error() -> None:
    spec = joint.spec()
    number = spec.columns[0].model_copy(update={"counts": (10, 0, 10, 10)})
    changed = spec.model_copy(update={"columns": (number, *spec.columns[1:])})
    one = independent_nats(torch.tensor([[1, -1, -1]]), changed)
    assert one.item() == pytest.approx(-math.log(0.5 / 32))
    with pytest.raises(ValueError, match="a code that its column does not have"):
        independent_nats(torch.tensor([[0, 2, 0]]), spec)  # the second column has the codes 0 and 1


def test_a_model_that_knows_the_joint_has_minus_the_total_correlation() -> None:
    p = random_joint(4, 3, 2)
    marginals = [p.sum(tuple(set(range(3)) - {d}), keepdims=True) for d in range(3)]
    total_correlation = (p * np.log(p / math.prod(marginals))).sum()
    mean = (torch.from_numpy(p.ravel()) * beyond_marginals(p)).sum().item()
    assert mean == pytest.approx(-total_correlation, abs=1e-7) and mean < -0.1


def test_the_coding_of_a_column_that_is_independent_of_the_others_does_not_matter() -> None:
    pair, alone = random_joint(4, 3), random_joint(8)
    fine = pair[:, :, None] * alone
    coarse = merged(fine, 2)
    of_rows = beyond_marginals(fine).view(4, 3, 8)
    assert torch.allclose(of_rows[..., ::2], beyond_marginals(coarse).view(4, 3, 4), atol=1e-7)
    assert torch.allclose(of_rows[..., 1::2], of_rows[..., ::2], atol=1e-7)


def test_finer_intervals_reveal_more_dependence() -> None:
    p = random_joint(16, 5, 3)
    means = []
    for _ in range(5):  # 16, 8, 4, 2 intervals and 1
        means.append((torch.from_numpy(p.ravel()) * beyond_marginals(p)).sum().item())
        p = merged(p, 0)
    assert means == sorted(means) and means[0] < means[3] - 0.05
