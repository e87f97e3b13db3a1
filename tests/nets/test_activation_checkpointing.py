"""Recomputed activations give the same gradients with fewer stored bytes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.experiment import Training
from gen_ray.nets import UNetConfig
from gen_ray.nets.activation_checkpointing import checkpoint_activations
from tests.nets.denoisers import CASES, built


def kept_bytes_and_gradients(net: nn.Module, x: Tensor) -> tuple[int, list[Tensor]]:
    stored: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)  # seed of dropout
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net(x, torch.linspace(0.1, 0.9, len(x))).square().mean()
    return sum(stored.values()), list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("case", ["unet-28", "dit", "unet-dropout"])
def test_gradients_are_the_same_and_fewer_bytes_are_stored(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "unet-dropout", (UNetConfig(width=16, multipliers=(1,), dropout=0.5), (1, 8, 8), 1))
    net, shape, _ = built(case)
    x = torch.randn(8, *shape)
    usual, expected = kept_bytes_and_gradients(net, x)
    names = list(net.state_dict())
    assert checkpoint_activations(net) > 0 and list(net.state_dict()) == names
    less, found = kept_bytes_and_gradients(net, x)
    assert less < 0.7 * usual
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_net_without_deep_blocks_has_nothing_to_recompute() -> None:
    assert checkpoint_activations(built("mlp-vector")[0]) == 0


@pytest.mark.parametrize("key", ["compile", "activation_checkpointing"])
def test_both_are_off_by_default(key: str) -> None:
    settings: dict[str, Any] = Training().model_dump()
    assert settings[key] is False
