"""Replacement of a folder or file on a disk: its name stands for the old one or the new one at every moment."""

import ctypes
import errno
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from gen_ray.errors import UserError

AT_FDCWD, RENAME_EXCHANGE = -100, 2
UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
"""What a kernel or a file system (NFS, sshfs) answers that cannot exchange names."""
PARTIAL, ASIDE = ".partial", ".aside.partial"
"""How the hidden names of a draft and of a folder about to be replaced end; other hidden folders are never touched."""


def hidden(path: Path, end: str) -> Path:
    """Return a name beside a path that no other process uses; names made later sort last."""
    return path.with_name(f".{path.name}.{time.time_ns()}-{secrets.token_hex(4)}{end}")


def write_output(file: Path, content: bytes) -> None:
    """Write a file that a user named, whole or not at all. Raise UserError where that cannot be done.

    On a full disk an older file of the name stays as it is. Devices, pipes and files in a folder that cannot be written
    are written in place.
    """
    try:
        target = file.resolve()  # a link stays a link
        if (target.exists() and not target.is_file()) or not os.access(target.parent, os.W_OK):
            target.write_bytes(content)
            return
        part = target.with_name(f".{secrets.token_hex(8)}.part")  # short: a name may have 255 bytes
        try:
            part.write_bytes(content)
            if target.exists():
                shutil.copymode(target, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise UserError(f"{file}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def take_place(draft: Path, folder: Path) -> None:
    """Rename a draft to folder. An older folder is removed, or has the draft's name afterwards. Raise OSError."""
    while not (_renamed(draft, folder) or _exchanged(draft, folder)):
        pass  # another process has removed or replaced the folder in between


def put_back(folder: Path) -> bool:
    """Return whether a folder exists, after its old version got its name back if a killed process moved it aside."""
    if not folder.is_dir() and folder.parent.is_dir():
        start = f".{folder.name}."
        names = [name for name in os.listdir(folder.parent) if name.startswith(start) and name.endswith(ASIDE)]
        for name in sorted(names, reverse=True):
            with suppress(OSError):  # another process did so, or the new version exists by now
                (folder.parent / name).rename(folder)
    return folder.is_dir()


def _renamed(draft: Path, folder: Path) -> bool:
    """Return whether a draft could be renamed to folder: not where a folder of that name is."""
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchanged(draft: Path, folder: Path) -> bool:
    """Return whether a draft has taken the place of a folder, in one step or else in two."""
    aside = hidden(folder, ASIDE)
    try:
        if swap(draft, folder):
            return True
        folder.rename(aside)
    except FileNotFoundError:
        return False
    try:
        done = _renamed(draft, folder)
    except OSError:
        with suppress(OSError):  # the old version stays, unless another process has made a new one
            aside.rename(folder)
        raise
    gone = hidden(folder, PARTIAL)  # put_back restores a folder aside, and must not find one half removed
    with suppress(OSError):  # put back by another process
        aside.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return done


def swap(first: Path, second: Path) -> bool:
    """Exchange what two paths name, in one step. Return False where the system cannot. Raise OSError.

    Linux's renameat2(2), which Python's own ``os`` lacks.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))
