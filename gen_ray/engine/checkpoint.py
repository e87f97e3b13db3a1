"""A checkpoint folder: all that training resumes from, complete or not there at all.

Randomness and the order of the data are functions of the step, so the step number stands for both.
"""

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
    folder: Path, *, net: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, position: Mapping[str, Any]
) -> None:
    """Write weights (safetensors), optimizer state and position into folder, the manifest last."""
    write_weights(folder / "net.safetensors", net)
    write_weights(folder / "ema.safetensors", ema)
    state = io.BytesIO()
    torch.save(optimizer.state_dict(), state)
    (folder / "optimizer.pt").write_bytes(state.getbuffer())
    (folder / "position.json").write_text(json.dumps(dict(position)))
    manifest.write(folder)


def write_weights(file: Path, net: nn.Module) -> None:
    """Write a net's state. By way of memory: the libraries' own writers turn a full disk into errors without errno."""
    file.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}))


def read(folder: Path, *, net: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint into net, ema and optimizer and return its position. Raise RunError where it is damaged."""
    verify(folder)
    net.load_state_dict(load_file(folder / "net.safetensors"))
    ema.load_state_dict(load_file(folder / "ema.safetensors"))
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
        raise RunError(f"{folder}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
