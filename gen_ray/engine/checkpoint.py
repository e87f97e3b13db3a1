"""A checkpoint folder: all that training resumes from, complete or not there at all.

Randomness and the order of the data are functions of the step, so the step number stands for both.
"""

import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from gen_ray import manifest
from gen_ray.errors import RunError


def write(
    folder: Path, *, nets: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, position: Mapping[str, Any]
) -> None:
    """Write nets by name (safetensors), optimizer state and position into folder, the manifest last."""
    write_nets(folder, nets)
    state = io.BytesIO()
    torch.save(optimizer.state_dict(), state)
    (folder / "optimizer.pt").write_bytes(state.getbuffer())
    (folder / "position.json").write_text(json.dumps(dict(position)))
    manifest.write(folder)


def write_nets(folder: Path, nets: Mapping[str, nn.Module]) -> None:
    """Write each net into a file of its name."""
    for name, net in nets.items():
        write_weights(folder / f"{name}.safetensors", net)


def write_weights(file: Path, net: nn.Module) -> None:
    """Write a net's state. By way of memory: the libraries' own writers turn a full disk into errors without errno."""
    file.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}))


def read(folder: Path, *, nets: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint into nets and optimizer and return its position. Raise RunError where it is damaged."""
    verify(folder)
    for name, net in nets.items():
        net.load_state_dict(load_file(folder / f"{name}.safetensors"))
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"))
    return position(folder)


def verify(folder: Path) -> None:
    """Raise RunError naming the file that is not as it was written."""
    try:
        manifest.verify(folder)
    except manifest.DamagedError as error:
        raise RunError(f"the checkpoint is damaged: {error}") from None


def position(folder: Path) -> dict[str, Any]:
    """Return where the training stood."""
    found: dict[str, Any] = json.loads((folder / "position.json").read_text())
    return found


def commit(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make folder appear complete or not at all: fill a sibling, flush it, rename it. Nothing is left on failure."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        fill(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why, reason = ("disk full", "disk_full") if full else (error.strerror or str(error), "storage")
        raise RunError(f"{folder}: could not be written: {why}", reason=reason) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
