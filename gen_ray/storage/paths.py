"""Paths below storage.root, which is a folder that all machines share, or the URI of an object store.

A folder with a manifest is created and replaced atomically. An object store lacks renaming and locks, and its folders
are only common prefixes of names. There each version of a folder is uploaded under a new name below it, and the object
CURRENT, written last and deleted first, holds this name.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from gen_ray.errors import UserError, first_line
from gen_ray.storage import manifest
from gen_ray.storage.replacement import PARTIAL, hidden_path, replace_folder, restore_folder
from gen_ray.storage.user_paths import check_remote, local, printable

ENVIRONMENT, DEFAULT = "GEN_RAY_STORAGE", "gen_ray_runs"
PACKAGE = "_ray_pkg_"
"""Part of the name of the folder to which Ray copies a job's files, and which it deletes after the job."""
CURRENT = "CURRENT"
"""Name of the object that holds the name of a folder's present version on an object store."""
READS = 100
"""Maximum number of attempts to read a folder that is replaced during each reading."""
FAILURES = 3
"""Number of repeated attempts to read a folder after errors, if it was apparently not replaced."""
VERSION = re.compile(r"v-[0-9a-f]+-[0-9a-f]{8}")
T = TypeVar("T")


def default() -> Path:
    """Return the default storage.root: that of the environment variable, else DEFAULT."""
    return root(os.environ.get(ENVIRONMENT) or DEFAULT)


def root(where: str | os.PathLike[str]) -> Path:
    """Return the path of a storage.root, as ``resolve`` does. Raise UserError also for a folder that Ray deletes."""
    found = resolve(where)
    if PACKAGE in str(found):
        raise UserError(
            f"storage.root={found}: is in the job's copy of its files, which is deleted when the job ends; name a "
            f"folder that all machines share, or s3://…, or set {ENVIRONMENT} on the cluster's machines"
        )
    return found


def resolve(where: str | os.PathLike[str]) -> Path:
    """Return the path of a local folder, or that of an object store for s3://bucket/prefix. Raise UserError."""
    text = str(where)
    if "://" not in text or text.startswith("file:"):
        return printable(local(text).absolute())
    check_remote(text)
    from upath import UPath  # here, because it is rarely needed

    try:
        # Listings are not cached, because other processes may write.
        return cast(Path, UPath(text.rstrip("/"), use_listings_cache=False))
    except (ValueError, ImportError) as error:
        raise UserError(f"storage.root={text}: {error}") from None


def is_remote(path: Path) -> bool:
    """Return whether a path is on an object store."""
    return not isinstance(path, Path)


def remote(path: Path) -> tuple[Any, str]:
    """Return fsspec's file system of an object store, and the path in it."""
    found = cast(Any, path)
    return found.fs, found.path


def check(root: Path) -> None:
    """Raise UserError if an object store does not answer or denies access."""
    if not is_remote(root):
        return
    try:
        with as_os_errors(root):
            root.exists()
    except OSError as error:
        raise UserError(f"storage.root={root}: {error}") from None


def local_dir(root: Path) -> Path:
    """Return the local folder for a root's files that must not be on an object store, e.g. locks.

    It is root itself, or for a URI a folder in the user's cache.
    """
    if not is_remote(root):
        return root
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gen_ray" / sha256(str(root).encode()).hexdigest()[:16]


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a local path of a file or folder: the path itself, or a copy that is deleted after the block.

    Use ``read`` for a folder that may be replaced meanwhile.
    """
    if not is_remote(path):
        yield path
        return
    with TemporaryDirectory(prefix="gen_ray-") as folder:
        copy = Path(folder) / path.name
        with as_os_errors(path):
            now = current_version(path)
            client, remote_path = remote(now)
            client.get(remote_path, str(copy), recursive=now.is_dir())
        yield copy


def current_version(folder: Path) -> Path:
    """Return the folder that holds the files of a folder: itself, or on an object store its present version."""
    name = _version(folder) if is_remote(folder) else None
    return folder / name if name else folder


def exists(folder: Path) -> bool:
    """Return whether a folder was committed. On a disk, return whether any folder of this name exists."""
    if is_remote(folder):
        return (current_version(folder) / manifest.NAME).exists()
    return restore_folder(folder)


def read(folder: Path, reader: Callable[[Path], T]) -> T:
    """Return the result of reader for a committed folder, which is passed as a local path.

    If the folder is replaced meanwhile, it is read again, so that a result never mixes two versions. If reading fails
    although the folder seems to be the same, it may have been moved aside and back, so that a few more attempts follow.
    """
    failures = 0
    for remaining in reversed(range(READS)):
        before = _identity(folder)
        try:
            with local_copy(folder) as local:
                result = reader(local)
        except Exception:
            failures += _identity(folder) == before
            if not remaining or failures > FAILURES:
                raise
        else:
            if not remaining or _identity(folder) == before:
                return result
    raise AssertionError("unreachable")


def commit(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create or replace folder atomically. fill writes its files and the manifest into a draft. Raise OSError.

    The old version stays until the new one replaces it. If several processes commit, the last one counts.
    """
    if is_remote(folder):
        with TemporaryDirectory(prefix="gen_ray-") as draft:
            fill(Path(draft))
            _upload(Path(draft), folder)
        return
    own = hidden_path(folder, PARTIAL)
    try:
        own.mkdir(parents=True)
        fill(own)
        replace_folder(own, folder)
        manifest.flush(folder.parent)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def drafts(home: Path, pattern: str = f"*{PARTIAL}") -> list[Path]:
    """Return the drafts in home with matching names, of processes that have died or still work."""
    return [] if is_remote(home) else list(home.glob(f".{pattern}"))


def complete(home: Path, pattern: str) -> list[Path]:
    """Return the committed folders in home with matching names, sorted by name."""
    if not is_remote(home):
        return sorted(home.glob(pattern))  # also damaged ones without a manifest, which the reader reports
    found = {file.parent for last in (CURRENT, manifest.NAME) for file in home.glob(f"{pattern}/{last}")}
    return sorted(found, key=lambda folder: folder.name)


def copy(folder: Path, draft: Path) -> None:
    """Copy the content of a folder into a draft."""

    def fill(source: Path) -> None:
        shutil.rmtree(draft)
        shutil.copytree(source, draft)

    read(folder, fill)


def remove(folder: Path) -> None:
    """Remove a folder atomically, as far as possible. Errors are ignored on a disk."""
    if not is_remote(folder):
        renamed = hidden_path(folder, PARTIAL)
        try:
            folder.rename(renamed)
        except OSError:  # it does not exist, or may not be renamed
            renamed = folder
        shutil.rmtree(renamed, ignore_errors=True)
        return
    with as_os_errors(folder):
        for last in (CURRENT, manifest.NAME):
            (folder / last).unlink(missing_ok=True)
        client, remote_path = remote(folder)
        if client.exists(remote_path):
            client.rm(remote_path, recursive=True)


def write_atomic(file: Path, text: str) -> None:
    """Write a text file atomically, also in case of a crash of the machine."""
    if is_remote(file):
        with as_os_errors(file):
            file.write_text(text, encoding="utf-8")
        return
    part = hidden_path(file, ".part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
        manifest.flush(file.parent)
    finally:
        part.unlink(missing_ok=True)


def _identity(folder: Path) -> object:
    """Return a value that differs between versions of a folder, or None if the folder does not exist."""
    if is_remote(folder):
        return _version(folder)
    if not exists(folder):
        return None
    with suppress(FileNotFoundError):
        about = folder.stat()
        return about.st_dev, about.st_ino, about.st_mtime_ns
    return None


def _version(folder: Path) -> str | None:
    """Return the name of the present version of a folder on an object store, or None if it has no CURRENT object."""
    try:
        name = read_object(folder / CURRENT).decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not VERSION.fullmatch(name):
        raise OSError(f"{folder / CURRENT}: does not hold the name of a version")
    return name


def read_object(file: Path) -> bytes:
    """Return the content of a file on an object store, read in one request. Raise OSError.

    The store's own file objects request its size first, and fail if it is replaced in between.
    """
    client, path = remote(file)
    with as_os_errors(file):
        content: bytes = client.cat_file(path)
        return content


def _upload(draft: Path, folder: Path) -> None:
    """Upload a draft as a new version of folder, make it the present one, and remove the old one."""
    before, name = _version(folder), f"v-{time.time_ns():x}-{secrets.token_hex(4)}"
    files = [file for file in draft.rglob("*") if file.is_file() and file.name != manifest.NAME]
    client, home = remote(folder / name)
    with as_os_errors(folder):
        for group in (files, [draft / manifest.NAME]):
            targets = [f"{home}/{file.relative_to(draft).as_posix()}" for file in group]
            client.put([str(file) for file in group], targets)
        (folder / CURRENT).write_text(name, encoding="utf-8")
        if before:
            remove(folder / before)


@contextmanager
def as_os_errors(path: Path) -> Iterator[None]:
    """Raise exceptions of the clients of object stores as OSError, because e.g. botocore's have no common base."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {first_line(error)}") from error
