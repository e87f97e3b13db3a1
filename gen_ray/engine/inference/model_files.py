"""Folders of weights and further files, written completely or not at all."""

import errno
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from safetensors.torch import save
from torch import nn

from gen_ray.errors import RunError
from gen_ray.storage import manifest, paths

Files = Mapping[str, bytes]
"""The content of a folder by file name: packed at once, written while training continues.

The content is packed in memory also because the libraries' own writers report a full disk without errno.
"""


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


def commit(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create folder completely or not at all, by filling a draft of it. On RunError nothing is left."""
    try:
        paths.commit(folder, fill)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why, reason = ("disk full", "disk_full") if full else (error.strerror or str(error), "storage")
        raise RunError(f"{folder}: could not be written: {why}", reason=reason) from error
