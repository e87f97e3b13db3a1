"""A checkpoint folder: everything that training resumes from, complete or absent.

Randomness and the order of the data are functions of the step, so the step number is enough to restore both.
"""

import errno
import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from gen_ray.errors import RunError
from gen_ray.storage import manifest, paths

Files = Mapping[str, bytes]
"""The content of a folder by file name: packed at once, written while training continues.

The content is packed in memory also because the libraries' own writers report a full disk without errno.
"""


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


def weights(net: nn.Module) -> bytes:
    """Return a net's state as safetensors."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()})


def write(folder: Path, files: Files) -> None:
    """Write a folder of files with its manifest, completely or not at all. Raise RunError."""
    commit(folder, partial(_fill, files))


def _fill(files: Files, draft: Path) -> None:
    for name, content in files.items():
        (draft / name).write_bytes(content)
    manifest.write(draft)


def read(
    folder: Path, *, nets: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Load the given nets and optimizer from a checkpoint and return its position. Raise RunError where damaged."""

    def load(found: Path) -> dict[str, Any]:
        verify(found)
        for name, net in nets.items():
            net.load_state_dict(load_file(found / f"{name}.safetensors"))
        if optimizer is not None:
            optimizer.load_state_dict(torch.load(found / "optimizer.pt", weights_only=True, map_location="cpu"))
        return position(found)

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
    found: dict[str, Any] = json.loads((paths.current(folder) / "position.json").read_text(encoding="utf-8"))
    return found


def commit(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create folder completely or not at all, by filling a draft of it. On RunError nothing is left."""
    try:
        paths.commit(folder, fill)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why, reason = ("disk full", "disk_full") if full else (error.strerror or str(error), "storage")
        raise RunError(f"{folder}: could not be written: {why}", reason=reason) from error
