"""Paths and URIs in the users' notation."""

import re
from pathlib import Path
from urllib.parse import unquote

from gen_ray.errors import UserError

STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes of the object stores that keep files by name."""
PATTERNS = frozenset("[]*?#%")
"""Characters that object stores or their clients read as patterns or as parts of a URI."""


def local(text: str) -> Path:
    """Return a local path from a path (~ is the home folder) or a file: URI. Raise UserError."""
    if "\0" in (unquote(text) if text.startswith("file:") else text):
        raise UserError(f"{text!r}: the name of a file or folder cannot contain a null byte")
    if re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise UserError(f"{text}: must be a path of this machine; copy the files here first")
    if not text.startswith("file:"):
        if not text.startswith("~"):
            return Path(text)  # also for ./~x, which Path shortens to ~x
        try:
            return Path(text).expanduser()
        except RuntimeError:
            home = Path(text).parts[0]
            raise UserError(f"{home} is the home of an unknown user; write ./{home} for a folder") from None
    path = text.removeprefix("file:")
    if path.startswith("//"):
        host, slash, rest = path.removeprefix("//").partition("/")
        path = slash + rest if host in ("", "localhost") else ""
    if not path.startswith("/"):
        raise UserError(f"{text}: a file URI is written file:///PATH, with an absolute path of this machine")
    return Path(unquote(path))


def printable(path: Path) -> Path:
    """Return a path unchanged. Raise UserError if it is not UTF-8 text, as databases and URIs require."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{str(path)!a}: has bytes that are not text in UTF-8; rename the folder, or name another one"
        ) from None
    return path


def without_file_uri(word: str) -> str:
    """Return a word of the command line with a file: URI (also of an option) as a path. Raise UserError."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{local(value)}" if value.startswith("file:/") else word


def check_remote(text: str) -> None:
    """Raise UserError unless a URI is that of an object store and has only characters without a special meaning."""
    if not re.match(rf"({'|'.join(STORES)})://[^/]", text):
        raise UserError(
            f"{text}: must be a folder or s3://BUCKET/PREFIX (other object stores: {', '.join(STORES[1:])})"
        )
    if strange := sorted(set(text.partition("://")[2]) & PATTERNS):
        raise UserError(f"{text}: {' '.join(strange)} cannot be in the URI of an object store")
