"""The contract of encoder-decoder pairs."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from gen_ray.errors import UserError
from gen_ray.nets import AutoencoderConfig, ConvAutoencoderConfig, MlpAutoencoderConfig
from gen_ray.nets.autoencoder import LOG_VAR_BOUND, halvings

CASES = {
    "mlp": (MlpAutoencoderConfig(hidden=(32, 16)), (1, 8, 8), 1),
    "conv-8": (ConvAutoencoderConfig(width=8, hidden=32), (1, 8, 8), 1),
    "conv-28": (ConvAutoencoderConfig(width=8, hidden=32), (1, 28, 28), 2),
    "conv-odd": (ConvAutoencoderConfig(width=8, hidden=32), (3, 7, 13), 3),
}
every_pair = pytest.mark.parametrize("case", CASES)


def built(case: str) -> tuple:
    config, shape, out_channels = CASES[case]
    torch.manual_seed(0)
    return config.build(shape, 5, out_channels), torch.randn(6, *shape), torch.randn(6, 5), out_channels


@every_pair
def test_forward_equals_encode_reparametrise_decode(case: str) -> None:
    net, x, eps, out_channels = built(case)
    mu, log_var, params = net(x, eps)
    assert params.shape == (6, out_channels, *x.shape[2:])
    torch.testing.assert_close(net.encode(x), (mu, log_var))
    torch.testing.assert_close(net.decode(mu + log_var.exp().sqrt() * eps), params)
    torch.testing.assert_close(net(x, torch.zeros_like(eps))[2], net.decode(mu))


@every_pair
def test_gradients_reach_every_parameter(case: str) -> None:
    net, x, eps, _ = built(case)
    sum(part.square().sum() for part in net(x, eps)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_pair
def test_a_row_does_not_depend_on_other_rows(case: str) -> None:
    net, x, eps, _ = built(case)
    for together, single in zip(net(x, eps), net(x[2:3], eps[2:3]), strict=True):
        torch.testing.assert_close(together[2:3], single, rtol=1e-5, atol=1e-5)


@every_pair
def test_extreme_input_gives_a_finite_posterior(case: str) -> None:
    net, x, _, _ = built(case)
    _, log_var = net.encode(1e4 * x)
    assert log_var.isfinite().all() and log_var.abs().max() <= LOG_VAR_BOUND
    _, calm = net.encode(0.01 * x)
    assert (calm.abs() < 1).all()


@pytest.mark.slow
@every_pair
def test_a_tiny_batch_can_be_memorised(case: str) -> None:
    net, x, eps, out_channels = built(case)
    target = x.mean(1, keepdim=True).sign().expand(-1, out_channels, -1, -1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (net(x, 0.1 * eps)[2] - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


@every_pair
def test_autocast_returns_float32(case: str) -> None:
    net, x, eps, _ = built(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x, eps)
    for a, b in zip(rough, net(x, eps), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.05 * b.norm()


def test_grids_are_halved_as_the_docstring_says() -> None:
    sides = {side: [h for h, _ in halvings(side, side)] for side in (28, 8, 32, 7)}
    assert sides == {28: [28, 14, 7], 8: [8, 4, 2], 32: [32, 16, 8, 4], 7: [7, 4, 2]}


def test_rows_have_only_the_perceptron() -> None:
    with pytest.raises(UserError, match="use net 'mlp'"):
        ConvAutoencoderConfig().build((64,), 2, 1)
    mu, log_var, params = MlpAutoencoderConfig(hidden=(8,)).build((64,), 2, 5)(torch.randn(3, 64), torch.randn(3, 2))
    assert mu.shape == log_var.shape == (3, 2) and params.shape == (3, 5)


@pytest.mark.parametrize("bad", [{"hidden": []}, {"name": "cnn"}, {"width": 32}, {"hidden": [0]}])
def test_a_bad_config_is_refused(bad: dict) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AutoencoderConfig).validate_python({"name": "mlp"} | bad)
