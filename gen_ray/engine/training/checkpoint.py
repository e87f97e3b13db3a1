"""A checkpoint folder: everything that training resumes from, complete or absent.

Randomness and the order of the data are functions of the step, so the step number is enough to restore both.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from gen_ray.engine.inference.model_files import weights
from gen_ray.errors import RunError
from gen_ray.storage import manifest, paths


def pack(
    *, nets: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, position: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return nets by name (safetensors), the optimizer state and the position as files."""
    state = io.BytesIO()
    torch.save(optimizer.state_dict(), state)
    return {
        **pack_nets(nets),
        "optimizer.pt": state.getvalue(),
        "position.json": json.dumps(dict(position)).encode(),
    }


def pack_nets(nets: Mapping[str, nn.Module]) -> dict[str, bytes]:
    """Return each net as a file with its name."""
    return {f"{name}.safetensors": weights(net) for name, net in nets.items()}


def read(
    folder: Path, *, nets: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Load the given nets and optimizer from a checkpoint and return its position. Raise RunError where damaged."""

    def load(local: Path) -> dict[str, Any]:
        verify(local)
        for name, net in nets.items():
            net.load_state_dict(load_file(local / f"{name}.safetensors"))
        if optimizer is not None:
            optimizer.load_state_dict(torch.load(local / "optimizer.pt", weights_only=True, map_location="cpu"))
        return position(local)

    return paths.read(folder, load)


def verify(folder: Path) -> None:
    """Raise RunError naming a file that is damaged or missing."""
    try:
        paths.read(folder, manifest.verify)
    except manifest.DamagedError as error:
        raise RunError(f"the checkpoint is damaged: {error}") from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror or error}", reason="storage") from error


def position(folder: Path) -> dict[str, Any]:
    """Return the position of the training: step and validation losses."""
    content: dict[str, Any] = json.loads((paths.current_version(folder) / "position.json").read_text(encoding="utf-8"))
    return content
