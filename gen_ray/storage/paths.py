"""What is below storage.root: a folder that all machines share, or the URI of an object store, as paths alike.

A folder with a manifest appears complete or not at all, and is replaced in one step. An object store lacks
renaming and locks, and a folder there is whatever names have in common: each version of a folder is uploaded under a
new name below it, and the object CURRENT, written last and deleted first, holds that name.
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

from gen_ray.errors import UserError
from gen_ray.storage import manifest
from gen_ray.storage.replacement import PARTIAL, hidden, put_back, take_place
from gen_ray.storage.user_paths import check_remote, local, printable

ENVIRONMENT, DEFAULT = "GEN_RAY_STORAGE", "gen_ray_runs"
PACKAGE = "_ray_pkg_"
"""In the name of the folder that Ray copies a job's files to, and takes away again."""
CURRENT = "CURRENT"
"""Name of the object that holds the name of a folder's present version on an object store."""
READS = 100
"""Times a folder is read again that is replaced during each reading."""
FAILURES = 3
"""Times a folder is read again that could not be read and seems not to have been replaced."""
VERSION = re.compile(r"v-[0-9a-f]+-[0-9a-f]{8}")
T = TypeVar("T")


def default() -> Path:
    """Return the storage.root of those who name none."""
    return root(os.environ.get(ENVIRONMENT) or DEFAULT)


def root(where: str | os.PathLike[str]) -> Path:
    """Return what place does. Raise UserError also for a folder that ends with the job it is asked in."""
    found = place(where)
    if PACKAGE in str(found):
        raise UserError(
            f"storage.root={found}: is in the job's own copy of its files, which goes when the job ends; name a folder "
            f"that all machines share, or s3://…, or set {ENVIRONMENT} on the cluster's machines"
        )
    return found


def place(where: str | os.PathLike[str]) -> Path:
    """Return the path of a folder, or for s3://bucket/prefix one of an object store. Raise UserError."""
    text = str(where)
    if "://" not in text or text.startswith("file:"):
        return printable(local(text).absolute())
    check_remote(text)
    from upath import UPath  # here, since few need it

    try:
        # Another process may have written since: what was listed before is not kept.
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
    """Raise UserError where an object store does not answer, or does not let us in."""
    if not is_remote(root):
        return
    try:
        with as_os_errors(root):
            root.exists()
    except OSError as error:
        raise UserError(f"storage.root={root}: {error}") from None


def beside(root: Path) -> Path:
    """Return where files go that have to be this machine's own: root, or what stands for a URI in the user's cache."""
    if not is_remote(root):
        return root
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gen_ray" / sha256(str(root).encode()).hexdigest()[:16]


@contextmanager
def here(path: Path) -> Iterator[Path]:
    """Give a file or folder as one of this machine: itself, or a copy for as long as the block lasts.

    A folder that may be replaced meanwhile is read by ``read``.
    """
    if not is_remote(path):
        yield path
        return
    with TemporaryDirectory(prefix="gen_ray-") as folder:
        copy = Path(folder) / path.name
        with as_os_errors(path):
            now = current(path)
            client, there = remote(now)
            client.get(there, str(copy), recursive=now.is_dir())
        yield copy


def current(folder: Path) -> Path:
    """Return where the files of a folder are: there, or on an object store below it, in its present version."""
    name = _version(folder) if is_remote(folder) else None
    return folder / name if name else folder


def is_there(folder: Path) -> bool:
    """Return whether a folder was committed; on a disk, also whether there is another folder of that name."""
    if is_remote(folder):
        return (current(folder) / manifest.NAME).exists()
    return put_back(folder)


def read(folder: Path, reader: Callable[[Path], T]) -> T:
    """Return what reader makes of a committed folder, given as one of this machine.

    Where the folder is replaced meanwhile, it is read again: no result is made of two versions. Where a reading fails
    and the folder seems to be the same, it may have been moved aside and back, so a few more readings decide.
    """
    failures = 0
    for left in reversed(range(READS)):
        before = _identity(folder)
        try:
            with here(folder) as found:
                result = reader(found)
        except Exception:
            failures += _identity(folder) == before
            if not left or failures > FAILURES:
                raise
        else:
            if not left or _identity(folder) == before:
                return result
    raise AssertionError("unreachable")


def commit(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make folder appear complete or not at all: have a draft of it filled, with its manifest. Raise OSError.

    The version before stays until the new one takes its place. Of several processes that commit, the last one counts.
    """
    if is_remote(folder):
        with TemporaryDirectory(prefix="gen_ray-") as draft:
            fill(Path(draft))
            _upload(Path(draft), folder)
        return
    own = hidden(folder, PARTIAL)
    try:
        own.mkdir(parents=True)
        fill(own)
        take_place(own, folder)
        manifest.flush(folder.parent)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def without_traces(*folders: Path) -> Iterator[None]:
    """Remove the empty folders, at these paths or above, that the block created before it raised an error.

    A refused command leaves the storage as it was. Folders that existed before, or that hold something, stay.
    """
    above = {parent for folder in folders if not is_remote(folder) for parent in (folder, *folder.parents)}
    missing = [folder for folder in above if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        for folder in sorted(missing, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # it was not created, or it holds something
                folder.rmdir()
        raise


def drafts(home: Path, pattern: str = f"*{PARTIAL}") -> list[Path]:
    """Return what was begun in home, under names that match, and not finished: by a process that died, or works."""
    return [] if is_remote(home) else list(home.glob(f".{pattern}"))


def complete(home: Path, pattern: str) -> list[Path]:
    """Return the folders in home that were committed under names that match, in the order of these names."""
    if not is_remote(home):
        return sorted(home.glob(pattern))  # one without a manifest is damaged, which its reader has to be told
    found = {file.parent for last in (CURRENT, manifest.NAME) for file in home.glob(f"{pattern}/{last}")}
    return sorted(found, key=lambda folder: folder.name)


def copy(folder: Path, draft: Path) -> None:
    """Fill a draft with what a folder holds."""

    def fill(found: Path) -> None:
        shutil.rmtree(draft)
        shutil.copytree(found, draft)

    read(folder, fill)


def remove(folder: Path) -> None:
    """Take a folder away, as far as that is possible; it is gone in one step."""
    if not is_remote(folder):
        gone = hidden(folder, PARTIAL)
        try:
            folder.rename(gone)
        except OSError:  # nothing there, or nothing that may be renamed
            gone = folder
        shutil.rmtree(gone, ignore_errors=True)
        return
    with as_os_errors(folder):
        for last in (CURRENT, manifest.NAME):
            (folder / last).unlink(missing_ok=True)
        client, there = remote(folder)
        if client.exists(there):
            client.rm(there, recursive=True)


def write_whole(file: Path, text: str) -> None:
    """Have a file appear whole or not at all, also after a crash of the machine."""
    if is_remote(file):
        with as_os_errors(file):
            file.write_text(text, encoding="utf-8")
        return
    part = hidden(file, ".part")
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
    """Return what differs between versions of a folder, None where there is none."""
    if is_remote(folder):
        return _version(folder)
    if not is_there(folder):
        return None
    with suppress(FileNotFoundError):
        about = folder.stat()
        return about.st_dev, about.st_ino, about.st_mtime_ns
    return None


def _version(folder: Path) -> str | None:
    """Return the name of the present version of a folder on an object store, None where it is not committed so."""
    try:
        name = read_object(folder / CURRENT).decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not VERSION.fullmatch(name):
        raise OSError(f"{folder / CURRENT}: does not hold the name of a version")
    return name


def read_object(file: Path) -> bytes:
    """Return the content of a file on an object store, read in one request. Raise OSError.

    The store's own file objects ask for its size first, and fail where it is replaced in between.
    """
    client, path = remote(file)
    with as_os_errors(file):
        content: bytes = client.cat_file(path)
        return content


def _upload(draft: Path, folder: Path) -> None:
    """Upload a draft as a new version of folder, make it the present one, and remove the one before."""
    before, name = _version(folder), f"v-{time.time_ns():x}-{secrets.token_hex(4)}"
    files = [file for file in draft.rglob("*") if file.is_file() and file.name != manifest.NAME]
    client, home = remote(folder / name)
    with as_os_errors(folder):
        for group in (files, [draft / manifest.NAME]):
            there = [f"{home}/{file.relative_to(draft).as_posix()}" for file in group]
            client.put([str(file) for file in group], there)
        (folder / CURRENT).write_text(name, encoding="utf-8")
        if before:
            remove(folder / before)


@contextmanager
def as_os_errors(path: Path) -> Iterator[None]:
    """Raise as OSError what the clients of object stores raise: botocore's errors, for one, are of no common kind."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(f"{path}: {line}") from error
