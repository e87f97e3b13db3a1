"""Atomic replacement of a folder or file on a disk: its name is always that of the old one or of the new one."""

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
"""Error codes of a kernel or a file system (NFS, sshfs) that cannot exchange names."""
PARTIAL, ASIDE = ".partial", ".aside.partial"
"""Suffixes of the hidden names of a draft and of a folder during its replacement. No other hidden folder is changed."""


def hidden_path(path: Path, end: str) -> Path:
    """Return a unique hidden name in the folder of a path. Later names sort last."""
    return path.with_name(f".{path.name}.{time.time_ns()}-{secrets.token_hex(4)}{end}")


def write_output(file: Path, content: bytes) -> None:
    """Write a file named by the user atomically. Raise UserError if it cannot be written.

    On a full disk an older file of the name does not change. Devices, pipes and files in a read-only folder are written
    in place.
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


def replace_folder(draft: Path, folder: Path) -> None:
    """Rename a draft to folder. An older folder is removed, or gets the draft's name. Raise OSError."""
    while not (_renamed(draft, folder) or _exchanged(draft, folder)):
        pass  # another process has removed or replaced the folder in between


def restore_folder(folder: Path) -> bool:
    """Restore the old version of a folder if a killed process moved it aside. Return whether the folder exists."""
    if not folder.is_dir() and folder.parent.is_dir():
        start = f".{folder.name}."
        names = [name for name in os.listdir(folder.parent) if name.startswith(start) and name.endswith(ASIDE)]
        for name in sorted(names, reverse=True):
            with suppress(OSError):  # another process restored it, or the new version exists already
                (folder.parent / name).rename(folder)
    return folder.is_dir()


def _renamed(draft: Path, folder: Path) -> bool:
    """Rename a draft to folder. Return False if a folder of this name exists. Raise OSError."""
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchanged(draft: Path, folder: Path) -> bool:
    """Replace a folder by a draft, in one step if possible, else in two. Return whether the draft has its name."""
    aside = hidden_path(folder, ASIDE)
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
    renamed = hidden_path(folder, PARTIAL)  # not ASIDE, because put_back must not restore a partially removed folder
    with suppress(OSError):  # put back by another process
        aside.rename(renamed)
        shutil.rmtree(renamed, ignore_errors=True)
    return done


def swap(first: Path, second: Path) -> bool:
    """Exchange two paths atomically. Return False if the system does not support it. Raise OSError.

    This calls Linux's renameat2(2), which Python's ``os`` lacks.
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
