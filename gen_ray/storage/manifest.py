"""Integrity of a folder: MANIFEST.sha256 in sha256sum's own format, written last and checked before use.

The manifest detects flipped bits, which safetensors, Parquet and torch.load do not detect.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

NAME = "MANIFEST.sha256"


class DamagedError(Exception):
    """A file that does not agree with its manifest. The message names the file."""


def digest(file: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(folder: Path) -> None:
    """Write the manifest of every file below folder, and flush all files to the disk."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != NAME)
    (folder / NAME).write_text(text({f.relative_to(folder).as_posix(): digest(f) for f in files}), encoding="utf-8")
    for file in [*files, folder / NAME, folder]:
        flush(file)


def read(folder: Path) -> dict[str, str]:
    """Return the SHA-256 digests by relative name. Raise DamagedError if the manifest is missing or unreadable."""
    try:
        content = (folder / NAME).read_bytes().decode("utf-8")
        listed = {name: sha for sha, name in (line.split("  ", 1) for line in content.splitlines())}
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder / NAME}: missing or unreadable") from error
    if text(listed) != content:
        raise DamagedError(f"{folder / NAME}: has changed since it was written")
    return listed


def text(digests: Mapping[str, str]) -> str:
    """Return the manifest of digests by relative name, in the format of ``sha256sum -c``."""
    return "".join(f"{sha}  {name}\n" for name, sha in digests.items())


def verify(folder: Path) -> None:
    """Raise DamagedError with the first file that is missing, added or changed since the manifest was written."""
    expected = read(folder)
    present = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and f.name != NAME}
    for name in sorted(expected.keys() | present):
        if name not in present:
            raise DamagedError(f"{folder / name}: missing")
        if name not in expected:
            raise DamagedError(f"{folder / name}: not in the manifest")
        if (folder / name).is_symlink() or digest(folder / name) != expected[name]:
            raise DamagedError(f"{folder / name}: SHA-256 differs from the manifest")
    if not expected:
        raise DamagedError(f"{folder / NAME}: lists no files")


def flush(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
