"""A checkpoint folder: all that training resumes from, complete or not there at all.

Randomness and the order of the data are functions of the step, so the step number stands for both.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gen_ray import manifest
from gen_ray.errors import RunError


def write(folder: Path, *, net: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights (safetensors), optimizer state and position into folder, the manifest last."""
    save_file(_tensors(net), folder / "net.safetensors")
    save_file(_tensors(ema), folder / "ema.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "position.json").write_text(json.dumps({"step": step}))
    manifest.write(folder)


def read(folder: Path, *, net: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint into net, ema and optimizer and return its step. Raise RunError where it is damaged."""
    verify(folder)
    net.load_state_dict(load_file(folder / "net.safetensors"))
    ema.load_state_dict(load_file(folder / "ema.safetensors"))
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"))
    return position(folder)["step"]


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
    draft.mkdir(parents=True)
    try:
        fill(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except OSError as error:
        raise RunError(f"{folder}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in net.state_dict().items()}
