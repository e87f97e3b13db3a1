"""Comparison of results of the device with those of the CPU: the same draws, float32, and stated tolerances."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RTOL = 1e-4
"""Losses and gradients, relative to the largest value: sums in another order differ by about 1e-6 in float32."""

NLL_RTOL = 1e-3
"""Likelihoods: an ODE solver or a sum of many bounds makes a difference up to ten times larger."""

BFLOAT16_RTOL = 0.05
"""bfloat16 has 8 bits of precision: a relative error of 2^-9 in each product, and tens of layers."""

TF32_RTOL = 2e-2
"""cuDNN's convolutions round their inputs to TF32, 11 bits: a relative error of 2^-12 in each product."""

LEVELS = 1
"""A sample's value near the middle of two levels may be rounded to either of them."""

ROWS = 1 / 8
"""The share of samples that may differ by more than LEVELS.

A categorical draw is a comparison: where two scores differ by a rounding error, the device may draw the other category,
and the rest of that sample follows from it. This affects about one draw in a million.
"""

ROUNDING = 2.0**-21
"""The relative rounding error of a layer on a GPU: some units in the last place of float32."""


full_run = pytest.mark.full_run
"""On a test that the ordinary tests leave out: other tests cover the same on a CPU, or it takes long there."""


def of_which(few: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Return the parameters of a test: few of them for the ordinary tests, the others for the full run."""
    return [*few, *(pytest.param(other, marks=full_run) for other in others)]


class HostDraws(TorchFunctionMode):
    """Makes the draws of a CPU generator on the CPU and copies them to the device.

    The generator of a GPU draws other numbers, with which the losses of two devices could not be compared.
    """

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if kwargs.get("generator") is None or device is None:
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "device": "cpu"}).to(device)


def rounded(net: nn.Module) -> nn.Module:
    """Give a net on the CPU the rounding errors of a GPU, so that the tolerances are tested without one.

    Every layer's output is multiplied by 1 ± ROUNDING.
    """

    def differ(layer: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        signs = 1 - 2 * (torch.arange(out.numel(), device=out.device).view(out.shape) % 2)
        return out * (1 + ROUNDING * signs)

    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(differ)
    return net


def on(device: torch.device, net: nn.Module) -> nn.Module:
    """Return the net on the device under test, which has other rounding errors than the CPU."""
    return rounded(net) if device.type == "cpu" else net.to(device)


def assert_near(on_device: Tensor, on_cpu: Tensor, rtol: float = RTOL) -> None:
    """Assert that the result of the device equals that of the CPU within rtol of its largest value."""
    on_device, on_cpu = on_device.detach().cpu().double(), on_cpu.detach().double()
    worst, limit = float((on_device - on_cpu).abs().max()), rtol * float(on_cpu.abs().max())
    assert worst <= limit, f"differs by {worst:.3g}, allowed is {limit:.3g}"


def assert_gradients_near(on_device: Mapping[str, Tensor], on_cpu: Mapping[str, Tensor], rtol: float = RTOL) -> None:
    """Assert that two gradients differ by at most rtol of the whole gradient's length."""
    assert on_device.keys() == on_cpu.keys() and on_cpu
    length = float(torch.stack([g.square().sum() for g in on_cpu.values()]).sum().sqrt())
    far = {name: float((on_device[name].cpu() - g).norm()) / length for name, g in on_cpu.items()}
    worst = max(far, key=far.__getitem__)
    assert far[worst] <= rtol, f"{worst} differs by {far[worst]:.3g} of the gradient, allowed is {rtol:.3g}"


def gradients(net: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of each parameter that has one."""
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def assert_same_samples(on_device: Tensor, on_cpu: Tensor, levels: int = LEVELS) -> None:
    """Assert that all samples but the share ROWS are equal, values within this number of levels."""
    assert on_device.device == on_cpu.device == torch.device("cpu") and on_device.shape == on_cpu.shape
    far = ((on_device.int() - on_cpu.int()).abs() > levels).flatten(1).any(1)
    assert float(far.float().mean()) <= ROWS, f"{int(far.sum())} of {len(far)} samples differ"


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply in float32 where the default is TF32: cuDNN's convolutions."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@contextmanager
def repeatable() -> Iterator[None]:
    """Use deterministic algorithms: the same computation gives the same bits. An operation without one warns."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def same_bits(first: Iterable[Tensor], second: Iterable[Tensor]) -> bool:
    """Return whether two lists of tensors are equal to the bit."""
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))
