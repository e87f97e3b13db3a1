"""bfloat16, channels_last and recomputed activations on the device."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.engine.inference.precision import precision_on
from gen_ray.engine.training.session import LocalSession
from gen_ray.engine.training.step import TrainState
from gen_ray.nets import UNetConfig
from gen_ray.nets.activation_checkpointing import checkpoint_activations
from tests.engine.tiny_models import SPEC, experiment, images, splits
from tests.gpu.comparison import (
    BFLOAT16_RTOL,
    assert_near,
    full_precision,
    full_run,
    of_which,
    repeatable,
    same_bits,
)

pytestmark = pytest.mark.gpu


def learner(family: str, device: torch.device, **training: Any) -> TrainState:
    exp = experiment(family, **training)
    return TrainState(exp.model(SPEC), exp.training, LocalSession(splits(exp), device=device), 100)


def losses(one: TrainState, steps: int) -> list[float]:
    """Train for a number of steps; return the losses."""
    return [float(one.step([images(8, seed=step)], step)[0][0]) for step in range(steps)]


@pytest.mark.parametrize("family", of_which(["vae", "tokens"], ["ddpm", "ddpm-learned", "score_sde"]))
def test_bfloat16_is_near_float32(family: str, device: torch.device) -> None:
    ones = {precision: learner(family, device, precision=precision) for precision in ("bfloat16", "float32")}
    found = {precision: losses(one, 5) for precision, one in ones.items()}
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=BFLOAT16_RTOL)
    assert found["bfloat16"] != found["float32"]
    for one in ones.values():
        assert all(p.dtype == torch.float32 and p.device == device for p in one.module.parameters())


def test_auto_is_bfloat16_where_the_device_has_it(device: torch.device) -> None:
    has = torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda":
        has = torch.cuda.get_device_capability(device) >= (8, 0)
    assert precision_on("auto", device) == ("bfloat16" if has else "float32")


def unet(device: torch.device, **settings: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a U-Net of two resolutions on the device, a batch and its times."""
    torch.manual_seed(0)
    width = 64 if device.type == "cuda" else 16
    net = UNetConfig(width=width, multipliers=(1, 2), **settings).build((3, 16, 16), 3).to(device)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net, torch.randn(4, 3, 16, 16).to(device), torch.linspace(0.1, 0.9, 4).to(device)


def test_convolutions_are_channels_last_and_give_the_same(device: torch.device) -> None:
    net, x, t = unet(device)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    layouts: list[bool] = []

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    def contiguous(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].contiguous(),)

    with full_precision(), torch.no_grad():
        hooks = [layer.register_forward_pre_hook(note) for layer in convolutions]
        found = net(x, t)
        for hook in hooks:
            hook.remove()
        for layer in convolutions:
            layer.register_forward_pre_hook(contiguous)
        expected = net(x, t)
    assert layouts.count(True) >= len(layouts) - 1, "all except the stem, whose input is the image"
    assert_near(found, expected.cpu())


def test_recomputed_activations_give_the_same_bits(device: torch.device) -> None:
    """Dropout draws the same numbers twice."""
    ends = []
    with repeatable():
        for anew in (False, True):
            one = learner("ddpm-dropout", device, activation_checkpointing=anew)
            losses(one, 3)
            ends.append(list(one.module.parameters()))
    assert same_bits(*ends)


@full_run
def test_recomputed_activations_take_less_memory(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("tests/nets/test_activation_checkpointing.py covers it on a CPU, which does not count its memory")
    peaks = []
    for anew in (False, True):
        net, _, _ = unet(device, blocks=3)
        x, t = torch.randn(256, 3, 16, 16, device=device), torch.rand(256, device=device)
        if anew:
            assert checkpoint_activations(net)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        net(x, t).square().mean().backward()
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    assert peaks[1] < 0.7 * peaks[0]
