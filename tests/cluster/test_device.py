"""The device of a process is the one that Ray booked for it, whatever torch sees."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gen_ray.cluster.training import device
from gen_ray.errors import UserError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a machine: what Ray booked of it (booked), whether torch can use it (cuda), and what was set."""
    there = SimpleNamespace(booked=[], cuda=True, set=None, share=None, part=1.0)
    context = SimpleNamespace(
        get_accelerator_ids=lambda: {"GPU": there.booked}, get_assigned_resources=lambda: {"CPU": 1, "GPU": there.part}
    )
    monkeypatch.setattr(device.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there.cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda found: setattr(there, "set", found))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, found: setattr(there, "share", (share, found))
    )
    return there


def test_who_booked_no_gpu_computes_on_the_cpu_beside_one(machine: Any) -> None:
    assert device.reserved_device() == torch.device("cpu") and machine.set is None


@pytest.mark.parametrize(
    ("gpu", "visible", "index"),
    [("3", "3", 0), ("3", "0,1,3", 2), ("3", "0, 3", 1), ("3", None, 3), ("MIG-5c8", "MIG-1f0,MIG-5c8", 1)],
)
def test_a_gpu_is_found_among_those_in_sight(
    machine: Any, monkeypatch: pytest.MonkeyPatch, gpu: str, visible: str | None, index: int
) -> None:
    """Ray shows the workers of a training their neighbours' GPUs as well, or all GPUs where it is not to set any."""
    machine.booked, machine.part = [gpu], 0.25
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = torch.device("cuda", index)
    assert device.reserved_device() == expected and machine.set == expected and machine.share == (0.25, expected)


def test_a_gpu_that_is_hidden_from_the_process_is_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.booked = ["3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r": Ray gave GPU 3, which is not one of CUDA_VISIBLE_DEVICES=0,1; start Ray"):
        device.reserved_device()


def test_a_gpu_that_torch_cannot_use_is_told_with_the_machine(machine: Any) -> None:
    machine.booked, machine.cuda = ["3"], False
    with pytest.raises(UserError, match=r": Ray gave GPU 3, but torch .* can use none there; install"):
        device.reserved_device()
