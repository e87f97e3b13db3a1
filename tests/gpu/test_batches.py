"""Transfer of batches and noise to the device: from page-locked memory, without waiting, and unchanged."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gen_ray.engine.training.batches import Copier, InMemoryBatches, prefetch_to_device
from gen_ray.maths.noise import RowNoise

pytestmark = pytest.mark.gpu
KINDS = ("normal", "held_normal", "uniform", "gumbel")


class Copies(TorchFunctionMode):
    """Records of each tensor that is copied from the CPU to a GPU whether it was pinned, and whether the CPU waited."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[bool] = []
        self.waited: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is Tensor.to and not args[0].is_cuda and out.is_cuda:
            self.pinned.append(args[0].is_pinned())
            self.waited.append(not kwargs.get("non_blocking", False))
        return out


def data(device: torch.device) -> InMemoryBatches:
    rows, width = (4096, 3 * 32 * 32) if device.type == "cuda" else (64, 16)
    x = torch.randint(256, (rows, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return InMemoryBatches(x, batch_size=rows // 4, accumulation_steps=2)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_the_same_and_comes_from_pinned_memory(kind: str, device: torch.device) -> None:
    noise = RowNoise.of(7, 5)
    where = torch.tensor([True, False, True, True, False])
    with Copies() as copies:
        on_device = getattr(noise, kind)((3, 4), device=device)
        some = getattr(noise, kind)((3, 4), where=where.to(device), device=device)
    assert on_device.device == some.device == device
    assert torch.equal(on_device.cpu(), getattr(noise, kind)((3, 4)))
    assert torch.equal(some.cpu(), getattr(noise, kind)((3, 4), where=where))
    on_gpu = device.type == "cuda"
    assert len(copies.pinned) == (2 + 1 if on_gpu else 0)  # plus the mask, which this test copies
    assert copies.pinned.count(True) == copies.waited.count(False) == (2 if on_gpu else 0)


def test_batches_come_from_pinned_memory(device: torch.device) -> None:
    micros = next(data(device).stream(0))
    if device.type != "cuda":
        assert next(prefetch_to_device(iter([micros]), device)) is micros, "the CPU uses the batches unchanged"
        return
    copier = Copier(device)
    with Copies() as copies:
        found = copier.finish(*copier.begin(micros))
    assert copies.pinned == [True] * len(micros) and copies.waited == [False] * len(micros)
    assert all(torch.equal(on_device.cpu(), on_cpu) for on_device, on_cpu in zip(found, micros, strict=True))


def test_staged_batches_are_equal_while_the_device_is_busy(device: torch.device) -> None:
    """A copy that is used too early, or whose memory is reused too early, would give another batch."""
    split, steps = data(device), 40 if device.type == "cuda" else 4
    work = torch.ones((2048, 2048) if device.type == "cuda" else (8, 8), device=device)
    sums = []
    with closing(prefetch_to_device(split.stream(0), device)) as stream:
        for micros in islice(stream, steps):
            work = (work @ work).clamp(max=1.0)
            places = torch.arange(micros[0].numel(), device=device).view(micros[0].shape)
            sums.append([(micro.long() * places).sum() for micro in micros])  # depends also on the order of the rows
    for found, micros in zip(sums, split.stream(0), strict=False):
        places = torch.arange(micros[0].numel()).view(micros[0].shape)
        assert [int(one) for one in found] == [int((micro.long() * places).sum()) for micro in micros]
