"""The contract of denoisers of every architecture."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from gen_ray.errors import UserError
from gen_ray.nets import DenoiserConfig, DiTConfig, UNetConfig
from tests.nets.denoisers import CASES, TINY_UNET, built

every_denoiser = pytest.mark.parametrize("case", CASES)


@every_denoiser
def test_a_new_net_predicts_zero_at_the_size_of_its_input(case: str) -> None:
    net, shape, out_channels = built(case, awake=False)
    assert torch.equal(net(torch.randn(3, *shape), torch.rand(3)), torch.zeros(3, out_channels, *shape[1:]))


@every_denoiser
def test_gradients_reach_every_parameter(case: str) -> None:
    net, shape, _ = built(case)
    net(torch.randn(3, *shape), torch.rand(3)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_denoiser
def test_the_prediction_depends_on_x_and_on_t(case: str) -> None:
    net, shape, _ = built(case)
    x, t = torch.randn(2, *shape), torch.tensor([0.2, 0.7])
    here = net(x, t)
    assert not torch.allclose(here, net(-x, t), atol=1e-3)
    assert not torch.allclose(here, net(x, t + 0.01), atol=1e-3)


@every_denoiser
def test_a_row_does_not_depend_on_other_rows(case: str) -> None:
    net, shape, _ = built(case)
    x, t = torch.randn(5, *shape), torch.rand(5)
    together = net(x, t)
    single = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, single, rtol=1e-5, atol=1e-5)


@every_denoiser
def test_memory_layout_of_the_input_does_not_matter(case: str) -> None:
    net, shape, _ = built(case)
    x, t = torch.randn(2, *shape), torch.rand(2)
    transposed = x.mT.contiguous().mT if x.ndim > 2 else x.T.contiguous().T
    torch.testing.assert_close(net(transposed, t), net(x, t), rtol=1e-5, atol=1e-5)


@every_denoiser
def test_autocast_returns_float32_near_the_exact_prediction(case: str) -> None:
    net, shape, _ = built(case)
    x, t = torch.randn(4, *shape), torch.rand(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x, t)
    exact = net(x, t)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()


@every_denoiser
def test_a_config_survives_a_round_trip_through_the_union(case: str) -> None:
    config = CASES[case][0]
    assert TypeAdapter(DenoiserConfig).validate_json(config.model_dump_json()) == config


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unet-no-attention", "dit", "mlp-vector"])
def test_a_tiny_batch_can_be_memorised(case: str) -> None:
    net, shape, out_channels = built(case, awake=False)
    x, t, target = torch.randn(4, *shape), torch.rand(4), torch.randn(4, out_channels, *shape[1:])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2 if case == "mlp-vector" else 5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (net(x, t) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * target.square().mean()


def test_dropout_is_active_in_training_and_off_in_evaluation() -> None:
    config = TINY_UNET.model_copy(update={"dropout": 0.5})
    net = config.build((1, 6, 6), 1)
    torch.nn.init.normal_(net.head.weight)
    for module in net.modules():
        if hasattr(module, "conv_out"):
            torch.nn.init.normal_(module.conv_out.weight)
    x, t = torch.randn(1, 1, 6, 6), torch.rand(1)
    assert not torch.allclose(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize(
    ("config", "shape", "words"),
    [
        (DiTConfig(patch=4), (1, 30, 30), r"patch=4.*30×30.*\[1, 2, 3, 5, 6, 10, 15, 30\]"),
        (DiTConfig(), (64,), "images.*mlp"),
        (UNetConfig(), (64,), "images.*mlp"),
    ],
)
def test_a_net_that_does_not_suit_the_data_is_refused_with_a_remedy(
    config: UNetConfig, shape: tuple, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        config.build(shape, 1)


@pytest.mark.parametrize(
    "bad", [{"name": "unit"}, {"width": 30}, {"multipliers": [1, 0]}, {"name": "dit", "heads": 5}, {"depth": 3}]
)
def test_a_bad_config_is_refused(bad: dict) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DenoiserConfig).validate_python({"name": "unet"} | bad)
