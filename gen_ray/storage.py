"""What is below storage.root: a folder that all machines share, or the URI of an object store, as paths alike.

An object store has no renaming and no locks, and a folder there is whatever names have in common. So what has to appear
complete or not at all is a folder with a manifest, which is uploaded last and deleted first.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from gen_ray import manifest
from gen_ray.errors import UserError

ENVIRONMENT, DEFAULT = "GEN_RAY_STORAGE", "gen_ray_runs"
PACKAGE = "_ray_pkg_"
"""In the name of the folder that Ray copies a job's files to, and takes away again."""
PARTIAL = ".partial"
"""How the hidden name of a draft ends: a folder of somebody else's that is hidden too is not ours to take away."""


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
    """Return the path of a folder or, for s3://bucket/prefix and its like, one of the same verbs on an object store.

    Raise UserError for a scheme that nothing here knows.
    """
    text = str(where)
    if "://" not in text:
        return Path(text).expanduser().absolute()
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
        with _spoken(root):
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
    """Give a file or folder as one of this machine: itself, or a copy for as long as the block lasts."""
    if not is_remote(path):
        yield path
        return
    with TemporaryDirectory(prefix="gen_ray-") as folder:
        copy = Path(folder) / path.name
        with _spoken(path):
            client, there = remote(path)
            client.get(there, str(copy), recursive=path.is_dir())
        yield copy


def commit(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make folder appear complete or not at all: have a draft of it filled, with its manifest. Raise OSError."""
    if is_remote(folder):
        with TemporaryDirectory(prefix="gen_ray-") as draft:
            fill(Path(draft))
            remove(folder)
            _upload(Path(draft), folder)
        return
    own = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    shutil.rmtree(own, ignore_errors=True)
    try:
        own.mkdir(parents=True)
        fill(own)
        shutil.rmtree(folder, ignore_errors=True)
        own.rename(folder)
        manifest.flush(folder.parent)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def drafts(home: Path, pattern: str = f"*{PARTIAL}") -> list[Path]:
    """Return what was begun in home, under names that match, and not finished: by a process that died, or works."""
    return [] if is_remote(home) else list(home.glob(f".{pattern}"))


def complete(home: Path, pattern: str) -> list[Path]:
    """Return the folders in home that were committed under names that match, in the order of these names."""
    if not is_remote(home):
        return sorted(home.glob(pattern))  # one without a manifest is damaged, which its reader has to be told
    return sorted((found.parent for found in home.glob(f"{pattern}/{manifest.NAME}")), key=lambda f: f.name)


def copy(folder: Path, draft: Path) -> None:
    """Fill a draft with what a folder holds."""
    with here(folder) as found:
        shutil.copytree(found, draft, dirs_exist_ok=True)


def remove(folder: Path) -> None:
    """Take a folder away, as far as that is possible: of a folder half gone nobody believes that it is complete."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with _spoken(folder):
        (folder / manifest.NAME).unlink(missing_ok=True)
        client, there = remote(folder)
        if client.exists(there):
            client.rm(there, recursive=True)


def write_whole(file: Path, text: str) -> None:
    """Have a file appear whole or not at all, whoever is killed meanwhile."""
    if is_remote(file):
        with _spoken(file):
            file.write_text(text)
        return
    part = file.with_name(f".{file.name}.part")
    part.write_text(text)
    part.replace(file)


def _upload(draft: Path, folder: Path) -> None:
    files = [file for file in draft.rglob("*") if file.is_file() and file.name != manifest.NAME]
    client, home = remote(folder)
    with _spoken(folder):
        for group in (files, [draft / manifest.NAME]):
            there = [f"{home}/{file.relative_to(draft).as_posix()}" for file in group]
            client.put([str(file) for file in group], there)


@contextmanager
def _spoken(path: Path) -> Iterator[None]:
    """Raise as OSError what the clients of object stores raise: botocore's errors, for one, are of no common kind."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(f"{path}: {line}") from error
