"""The device of a process is the one that Ray assigned to it, not every device that torch sees."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gen_ray.cluster.nodes import device
from gen_ray.errors import UserError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a fake machine: GPUs assigned by Ray (booked), whether torch can use CUDA (cuda), the device set."""
    state = SimpleNamespace(booked=[], cuda=True, set=None, share=None, part=1.0)
    context = SimpleNamespace(
        get_accelerator_ids=lambda: {"GPU": state.booked}, get_assigned_resources=lambda: {"CPU": 1, "GPU": state.part}
    )
    monkeypatch.setattr(device.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: state.cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda found: setattr(state, "set", found))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, found: setattr(state, "share", (share, found))
    )
    return state


def test_a_process_without_assigned_gpu_computes_on_the_cpu(machine: Any) -> None:
    assert device.reserved_device() == torch.device("cpu") and machine.set is None


@pytest.mark.parametrize(
    ("gpu", "visible", "index"),
    [("3", "3", 0), ("3", "0,1,3", 2), ("3", "0, 3", 1), ("3", None, 3), ("MIG-5c8", "MIG-1f0,MIG-5c8", 1)],
)
def test_the_assigned_gpu_is_found_among_the_visible_ones(
    machine: Any, monkeypatch: pytest.MonkeyPatch, gpu: str, visible: str | None, index: int
) -> None:
    """Ray makes the GPUs of all workers of a training visible, or all GPUs where it sets no visible devices."""
    machine.booked, machine.part = [gpu], 0.25
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = torch.device("cuda", index)
    assert device.reserved_device() == expected and machine.set == expected and machine.share == (0.25, expected)


def test_a_gpu_that_is_hidden_from_the_process_is_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.booked = ["3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"GPU 3\b.* CUDA_VISIBLE_DEVICES=0,1; start Ray"):
        device.reserved_device()


def test_a_gpu_that_torch_cannot_use_is_reported_with_its_machine(machine: Any) -> None:
    machine.booked, machine.cuda = ["3"], False
    with pytest.raises(UserError, match=r"GPU 3\b.* torch .*; install"):
        device.reserved_device()
