"""Ray's token, without which nobody may use a cluster. It goes from file to header; nobody prints it."""

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


def ready() -> None:
    """Make the token where there is none, readable by its owner only. Raise UserError where that fails.

    To be called before Ray starts: Ray itself writes the file with the rights of the umask, so that others can read it.
    """
    if os.environ.get(MODE) == OPEN:
        return
    if not known():
        generate()
    secure()


def secure() -> None:
    """Take others' rights to the token's file away. A warning says where that is not allowed."""
    if not is_open():
        return
    try:
        file().chmod(0o600)
    except OSError as error:
        LOG.warning("%s: others can read Ray's token, and its rights cannot be changed (%s)", file(), error.strerror)


def is_open() -> bool:
    """Return whether others than its owner have rights to the token's file."""
    return file().is_file() and bool(file().stat().st_mode & OTHERS)


def generate() -> None:
    """Write a new token; one that another process writes at the same time is kept. Raise UserError."""
    draft = file().with_name(f".{file().name}.{os.getpid()}")
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(draft, file())  # complete or not at all, and never in the place of another
    except OSError as error:
        raise UserError(f"{file()}: Ray's token cannot be written ({error.strerror})") from None
    finally:
        draft.unlink(missing_ok=True)
