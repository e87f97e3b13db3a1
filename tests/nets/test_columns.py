"""The nets over the columns of a table."""

import math

import pytest
import torch
from torch import Tensor, nn

from gen_ray.experiment import parse
from gen_ray.nets import CategoricalLayout, ColumnsConfig, ColumnsTransformerConfig
from tests.tabular_joint import CARDINALITIES, ROWS, K, spec

NETS = {"columns": ColumnsConfig(width=32), "columns_transformer": ColumnsTransformerConfig(width=32, dropout=0.5)}
T = torch.linspace(0, 1, len(ROWS))


def layout(*, causal: bool = False) -> CategoricalLayout:
    kernel = "order" if causal else "random_order"
    family = {"name": "discrete", "kernel": kernel, "net": "columns_transformer"}
    return parse({"name": "x", "family": family}).model(spec()).process.layout(spec())


def trained(net: nn.Module) -> nn.Module:
    """Return the net with random weights in place of the zeros of a new one."""
    generator = torch.Generator().manual_seed(0)
    for weights in net.parameters():
        nn.init.normal_(weights, std=0.3, generator=generator)
    return net.eval()


def masked() -> Tensor:
    """Return all rows with some columns masked, symbol K."""
    return torch.where(torch.rand(ROWS.shape, generator=torch.Generator().manual_seed(1)) < 0.4, K, ROWS)


@pytest.mark.parametrize("config", NETS.values(), ids=NETS)
def test_a_new_net_predicts_the_frequencies_and_no_other_code(config: ColumnsConfig | ColumnsTransformerConfig) -> None:
    p = config.build_categorical(layout()).eval()(masked(), T).softmax(-1)
    torch.testing.assert_close(p, torch.from_numpy(spec().frequencies).float().expand_as(p))


@pytest.mark.parametrize("config", NETS.values(), ids=NETS)
def test_logits_are_float32_under_autocast_and_minus_infinity_for_absent_codes(
    config: ColumnsConfig | ColumnsTransformerConfig,
) -> None:
    net = trained(config.build_categorical(layout()))
    exact = net(masked(), T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(masked(), T)
    assert exact.shape == (24, 3, K) and exact.dtype == rough.dtype == torch.float32
    absent = torch.arange(K) >= torch.tensor(CARDINALITIES)[:, None]
    for logits in (exact, rough):
        assert bool((logits[:, absent] == -math.inf).all()) and bool(logits[:, ~absent].isfinite().all())
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_logits_of_one_column_are_those_of_all(bfloat16: bool) -> None:
    net = trained(NETS["columns"].build_categorical(layout()))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        logits, hidden = net(masked(), T), net.hidden(masked(), T)
        for d, size in enumerate(CARDINALITIES):
            torch.testing.assert_close(
                net.column(hidden, d), logits[:, d, :size], rtol=1e-2 if bfloat16 else 1e-5, atol=1e-5
            )


@pytest.mark.parametrize("config", NETS.values(), ids=NETS)
def test_every_parameter_gets_a_gradient(config: ColumnsConfig | ColumnsTransformerConfig) -> None:
    net = trained(config.build_categorical(layout()))
    nn.functional.cross_entropy(net(masked(), T).flatten(0, 1), ROWS.flatten()).backward()
    for name, weights in net.named_parameters():
        assert weights.grad is not None and bool(weights.grad.abs().sum() > 0), name


def test_a_causal_net_sees_only_the_columns_before() -> None:
    net = trained(NETS["columns_transformer"].build_categorical(layout(causal=True)))
    x = ROWS.clone()
    before = net(x, T)
    for d, size in enumerate(CARDINALITIES):
        changed = x.clone()
        changed[:, d] = (x[:, d] + 1) % size
        after = net(changed, T)
        torch.testing.assert_close(after[:, : d + 1], before[:, : d + 1])
        assert d == 2 or not torch.equal(after[:, d + 1 :], before[:, d + 1 :])
