"""The SQLite database of an MLflow store on this machine: its address, relocation, and copies for reading."""

import atexit
import os
import shutil
import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from gen_ray.errors import UserError

SCHEME = "sqlite:///"
ARTIFACTS = "mlflow_artifacts"
"""Name of the folder of all experiments' artifacts, in the folder of the database."""
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Tables and columns of MLflow's schema that hold absolute addresses of artifacts."""
UNFINISHED = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY, sqlite3.SQLITE_READONLY)
"""Error codes of SQLite if a journal has to be rolled back and the file cannot be written."""


def uri_of(file: Path) -> str:
    """Return the URI of a SQLite file for SQLAlchemy. Only % and ? have to be escaped in its path."""
    return SCHEME + str(file).replace("%", "%25").replace("?", "%3F")


def file_of(uri: str) -> Path | None:
    """Return the file of a SQLite URI, or None for the URI of another store."""
    path = unquote(uri.removeprefix(SCHEME).partition("?")[0])
    return Path(path) if uri.startswith(SCHEME) and not path.startswith("file:") else None


def is_writable(file: Path) -> bool:
    """Return whether this process may write a database. SQLite also writes its journal into the folder."""
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def check(file: Path) -> None:
    """Raise sqlite3.Error for a file that is not a database, for which MLflow would retry for minutes."""
    with closing(sqlite3.connect(_existing(file), uri=True)) as database:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()


def relocate(file: Path, artifact_root: str) -> None:
    """Change the artifact addresses of a database that was moved or copied with its folder to artifact_root, a URI.

    Experiments whose artifacts are in other places do not change.
    """
    if not (former := _former_roots(file, artifact_root)):
        return
    with closing(sqlite3.connect(file)) as database, database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in ((table, column) for table, column in LOCATIONS if table in tables):
            for root in former:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608 - constants
                    (f"{artifact_root}/", len(root) + 2, len(root) + 1, f"{root}/"),
                )


def _former_roots(file: Path, artifact_root: str) -> list[str]:
    """Return the former addresses in a database of the artifacts that are now at artifact_root."""
    with closing(sqlite3.connect(_existing(file), uri=True)) as database:
        try:
            locations = [location for (location,) in database.execute("SELECT artifact_location FROM experiments")]
        except sqlite3.OperationalError:  # the database is empty; MLflow will create the tables
            return []
    split = (str(location).rpartition(f"/{ARTIFACTS}/") for location in locations)
    roots = sorted({f"{head}/{ARTIFACTS}" for head, is_local, _ in split if is_local and head.startswith("file:")})
    return [root for root in roots if root != artifact_root and not _same(root, artifact_root)]


def _same(one: str, other: str) -> bool:
    """Return whether two file URIs name the same existing folder, for instance by a link."""
    first, second = (Path(url2pathname(urlsplit(uri).path)) for uri in (one, other))
    return first.exists() and second.exists() and first.samefile(second)


def snapshot(file: Path, artifact_root: str | None) -> Path:
    """Return a copy of a database that this process may only read. The copy is deleted when the process ends."""
    stat = file.stat()
    return _copy(file, artifact_root, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _copy(file: Path, artifact_root: str | None, changed: int, size: int) -> Path:
    folder = mkdtemp(prefix="gen_ray-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder) / file.name
    with closing(sqlite3.connect(_existing(file), uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        try:
            source.backup(target)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in UNFINISHED:
                raise
            raise UserError(
                f"{file}: a process was killed while it wrote to it, and this user may not repair the file; "
                "run gen-ray compare once as a user with permission to write"
            ) from error
    if artifact_root:
        relocate(copy, artifact_root)
    return copy


def _existing(file: Path) -> str:
    """Return the address by which SQLite opens an existing file.

    A writable file is opened for writing even to read it, because a process that was killed while it wrote leaves a
    journal, which the next reader has to roll back.
    """
    return f"file:{quote(str(file))}?mode={'rw' if is_writable(file) else 'ro'}"
