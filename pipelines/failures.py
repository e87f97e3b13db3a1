"""Messages and exit codes for errors of the system: a full disk, an unreadable file, a closed pipe."""

import codecs
import errno
import io
import os
import re
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINE = 1000
"""Maximum characters of an error message: file names may have thousands."""
RUN = {
    errno.ENOSPC: "free some space there and try again",
    errno.EDQUOT: "free some space there, or ask for a larger quota",
    errno.EFBIG: "the file system or ulimit -f allows no larger file",
    errno.EIO: "the disk reports a fault",
    errno.EMFILE: "allow more open files (ulimit -n 65536)",
    errno.ENFILE: "the machine allows no more open files",
    errno.ENOMEM: "the machine is out of memory",
}
"""Errors that stop a run, with their remedies: exit code 1."""
USER = {
    errno.EACCES: "give this user the permission, or name another path",
    errno.EPERM: "give this user the permission, or name another path",
    errno.EROFS: "name a writable path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "name a file",
    errno.EEXIST: "",
    errno.ELOOP: "its links form a loop",
    errno.ENOTEMPTY: "",
    errno.ENXIO: "",
}
"""Errors that the user can mend: exit code 2. Only with a file name; without one the error may be a bug."""
ARGUMENT = re.compile(r"argument `(?P<name>[a-z]\w*)(?:=(?P<value>[^`]*))?`")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
TYPOGRAPHY = str.maketrans({"…": "...", "–": "-", "×": "x", "±": "+-", "→": "->", "≤": "<=", "≥": ">=", "·": "."})


def explained(error: BaseException) -> tuple[str, int] | None:
    """Return the message and exit code for a system error or a lack of memory, None for any other error."""
    for cause in _causes(error):
        if not isinstance(cause, OSError) or cause.errno is None:
            continue
        code = 1 if cause.errno in RUN else 2 if cause.errno in USER and cause.filename else None
        if code is not None:
            remedy = {**RUN, **USER}[cause.errno]
            name = cause.filename.decode(errors="replace") if isinstance(cause.filename, bytes) else cause.filename
            place = f"{name}: " if name else ""
            return f"{place}{os.strerror(cause.errno)}{remedy and '; '}{remedy}", code
    if isinstance(error, MemoryError) or ("torch" in sys.modules and any(map(_is_of_torch, _causes(error)))):
        return "not enough memory; smaller batches, fewer samples or fewer workers need less", 1
    if isinstance(error, FileNotFoundError) and not _folder_exists():
        return "the current folder was removed; change to another one", 2
    return None


def _is_of_torch(error: BaseException) -> bool:
    """Return whether an error is torch's out-of-memory error, of a GPU or the CPU."""
    from gen_ray.engine.inference.memory import is_out_of_memory

    return is_out_of_memory(error)


def _folder_exists() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; Ray's errors keep the error of another process as ``cause``."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        below = getattr(cause, "cause", None)
        cause = below if isinstance(below, BaseException) else cause.__cause__


def remedy(error: Any) -> str:
    """Return the remedy for a command-line error: for an option named like a setting, how to give the setting."""
    name = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    context = getattr(error, "ctx", None)
    takes = {parameter.name for parameter in context.command.params} if name and context else set()
    if "overrides" in takes and (key := _setting(name)):
        return f"settings are given as key=value: {key}=…"
    return "--help lists the options"


def _setting(name: str) -> str | None:
    """Return the dotted key of a setting by its full name, its last part, or the option name of other verbs."""
    from gen_ray.experiment import Experiment

    sections = {section: field.annotation for section, field in Experiment.model_fields.items()}
    keys = [f"{section}.{key}" for section, kind in sections.items() for key in getattr(kind, "model_fields", ())]
    if name == "storage":
        return "storage.root"
    return next((key for key in keys if name in (key.replace(".", "_"), key.rpartition(".")[2])), None)


def with_flags(text: str) -> str:
    """Return a message of the library with its arguments, see errors.argument, as flags of the command line."""
    return ARGUMENT.sub(lambda match: _flag(match["name"]) + (f" {match['value']}" if match["value"] else ""), text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"


def one_line(text: str) -> str:
    """Return the text on one line of limited length, without characters that control a terminal.

    Names of columns and cells of files are part of messages.
    """
    line = CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", " ".join(text.split()))
    return line if len(line) <= LINE else f"{line[: LINE // 2]} … {line[-LINE // 2 :]}"


def prepare_streams() -> None:
    """Make every character printable: replace those that the terminal's encoding lacks by similar ASCII ones."""
    codecs.register_error("gen_ray.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="gen_ray.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(TYPOGRAPHY)
    return text.encode("ascii", "replace").decode(), error.end


def unreadable_word(words: list[str]) -> str | None:
    """Return an error message if a command-line word is not text in the encoding of this terminal, else None."""
    for word in words:
        if not word.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in word):
            return f"{word!a}: is not text in the encoding {sys.getfilesystemencoding()} (LANG=C.UTF-8 sets UTF-8)"
    return None


def find_home() -> None:
    """Set HOME to / for a user without a home directory, as Docker does: token, caches and ``~`` need one."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def is_closed(number: int) -> bool:
    """Return whether the reader of a pipe that this process writes to has closed it, as ``head`` does."""
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def flush() -> None:
    """Flush the output. Output that cannot be printed is dropped because its error was already reported."""
    try:
        for stream in filter(None, (sys.stderr, sys.stdout)):
            stream.flush()
    except OSError:
        discard_output()


def discard_output() -> None:
    """Discard all further output; otherwise Python reports at exit that it cannot flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
