"""Ray's token, without which nobody may use a cluster. It goes from file to header; nobody prints it."""

import os
import secrets
from pathlib import Path

from gen_ray.errors import UserError

MODE, VALUE, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
OPEN = "disabled"
OTHERS = 0o077


def file() -> Path:
    """Return where Ray looks for the token."""
    return Path(os.environ.get(PATH) or Path.home() / ".ray" / "auth_token")


def known() -> bool:
    """Return whether there is a token."""
    return bool(os.environ.get(VALUE)) or file().is_file()


def use() -> None:
    """Have Ray's clients send the token, if there is one, as they do of themselves only to clusters that they find.

    Ray reads the variable when it is imported.
    """
    if known():
        os.environ.setdefault(MODE, "token")


def secure() -> None:
    """Take others' rights to the token's file away: Ray writes it for all to read."""
    if is_open():
        file().chmod(0o600)


def is_open() -> bool:
    """Return whether others than its owner have rights to the token's file."""
    return file().is_file() and bool(file().stat().st_mode & OTHERS)


def generate() -> None:
    """Write a new token. Raise UserError where that cannot be done."""
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(f"{file()}: Ray's token cannot be written ({error.strerror})") from None
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32))
