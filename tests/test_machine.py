"""gen-ray doctor: possible problems of machines, and errors."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gen_ray.cluster.nodes.checkup import Node
from gen_ray.host.machine import Machine, has_bfloat16, inspect_machine

HERE = Machine(
    versions={"python": "3.12.1", "ray": "2.60.0", "torch": "2.14.1", "gen-ray": "0.1.0"}, cores=8,
    memory_gib=64, gpus=("A 80 GiB", "B 80 GiB"), bfloat16=True, cuda="13.0", shm_gib=30, open_files=65536,
    disk_gib=900,
)  # fmt: skip
OLDER = replace(HERE, versions={**HERE.versions, "torch": "2.9.0"})
THERE = Node("there (192.0.2.2)", 2, HERE, True)


def test_this_machine_is_described_and_nothing_is_created(tmp_path: Path) -> None:
    machine = inspect_machine(tmp_path / "not" / "there")
    assert machine.cores > 0 and machine.memory_gib > 0.1 and machine.open_files > 0 and machine.disk_gib > 0
    assert {"python", "ray", "torch", "gen-ray"} <= set(machine.versions) and not list(tmp_path.iterdir())


def test_gpus_that_torch_cannot_use_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is older than torch's CUDA still lists its GPUs."""

    def fail(_: int) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    machine = inspect_machine(tmp_path)
    assert machine.gpus == () and "no GPU" in str(machine)


@pytest.mark.parametrize(("major", "expected"), [(7, False), (8, True), (9, True)])
def test_emulated_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch, major: int, expected: bool) -> None:
    """torch emulates bfloat16 on a T4 or V100, whose cuDNN lacks convolutions in it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert has_bfloat16(cuda=True) is expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"open_files": 1024}, "ulimit -n"),
        ({"shm_gib": 0.06}, "0.06 GiB free in /dev/shm: .*--shm-size"),
        ({"disk_gib": 0.5}, "0.5 GiB free on the disk"),
    ],
)
def test_a_possible_problem_is_reported_with_its_remedy(changed: dict[str, float], message: str) -> None:
    assert not list(HERE.warnings()) and not list(replace(HERE, shm_gib=None).warnings())
    [doubt] = replace(HERE, **changed).warnings()
    assert re.search(message, doubt)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (replace(THERE, machine=None, fault="no module named x"), "no task can run there: no module named x"),
        (
            replace(THERE, machine=replace(HERE, versions={**HERE.versions, "torch": "2.9.0"})),
            "torch is 2.9.0, here 2.14",
        ),
        (replace(THERE, machine=replace(HERE, gpus=())), r"Ray counts 2 GPUs, torch \(CUDA 13.0\) can use 0"),
        (replace(THERE, shares=False), "storage.root is another folder than here"),
    ],
)
def test_an_error_is_reported_with_its_remedy(node: Node, message: str) -> None:
    assert not list(THERE.problems(HERE)) and not list(replace(THERE, gpus=0).problems(HERE))
    [wrong] = node.problems(HERE)
    assert re.search(message, wrong)
