"""Ray's authentication token, which is required to use a cluster. It is read from a file and never printed."""

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from gen_ray.errors import UserError

LOG = logging.getLogger("gen_ray.host.ray_token")
MODE, VALUE, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
OPEN = "disabled"
OTHERS = 0o077


def file() -> Path:
    """Return the file in which Ray looks for the token."""
    return Path(os.environ.get(PATH) or Path.home() / ".ray" / "auth_token")


def exists() -> bool:
    """Return whether a token exists, in the environment or in the file."""
    return bool(os.environ.get(VALUE)) or file().is_file()


def enable() -> None:
    """Let Ray's clients send the token, if it exists. By default they send it only to clusters that they find.

    Call this before Ray is imported, because Ray reads the environment variable at import.
    """
    if exists():
        os.environ.setdefault(MODE, "token")


def ensure() -> None:
    """Create the token if it does not exist, readable only by its owner. Raise UserError if that fails.

    Call this before Ray starts, because Ray writes the file with the permissions of the umask, so that others can read
    it.
    """
    if os.environ.get(MODE) == OPEN:
        return
    if not exists():
        generate()
    secure()


def secure() -> None:
    """Remove other users' permissions on the token's file. Log a warning if that is not allowed."""
    if not is_open():
        return
    try:
        file().chmod(0o600)
    except OSError as error:
        LOG.warning("%s: others can read Ray's token, and its rights cannot be changed (%s)", file(), error.strerror)


def is_open() -> bool:
    """Return whether other users have permissions on the token's file."""
    return file().is_file() and bool(file().stat().st_mode & OTHERS)


def generate() -> None:
    """Write a new token, unless another process has written one at the same time. Raise UserError."""
    draft = file().with_name(f".{file().name}.{os.getpid()}")
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(draft, file())  # atomic, and does not replace an existing file
    except OSError as error:
        raise UserError(f"{file()}: Ray's token cannot be written ({error.strerror})") from None
    finally:
        draft.unlink(missing_ok=True)
