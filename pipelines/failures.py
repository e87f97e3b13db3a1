"""How errors that are not the program's own end a verb: a full disk, a file that may not be read, a closed pipe."""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINE = 1000
"""Characters of an error at most: names of files may have thousands."""
RUN = {
    errno.ENOSPC: "free some room there and try again",
    errno.EDQUOT: "free some room there, or ask for a larger quota",
    errno.EFBIG: "the file system or ulimit -f allows no larger file",
    errno.EIO: "the disk reports a fault",
    errno.EMFILE: "allow more open files (ulimit -n 65536)",
    errno.ENFILE: "the machine allows no more open files",
    errno.ENOMEM: "the machine is out of memory",
}
"""What stops a run: exit code 1."""
USER = {
    errno.EACCES: "give this user the right to it, or name another place",
    errno.EPERM: "give this user the right to it, or name another place",
    errno.EROFS: "name a place that may be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "name a file",
    errno.EEXIST: "",
    errno.ELOOP: "its links lead in a circle",
    errno.ENOTEMPTY: "",
    errno.ENXIO: "",
}
"""What a user can change: exit code 2. Only with the name of a file, without which it may be a bug."""
TYPOGRAPHY = str.maketrans({"…": "...", "–": "-", "×": "x", "±": "+-", "→": "->", "≤": "<=", "≥": ">=", "·": "."})


def explained(error: BaseException) -> tuple[str, int] | None:
    """Return the line and the exit code for an error of the system or of full memory, None for any other error."""
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
    """Return whether an error says that a GPU's memory, or a CPU's, was full."""
    from gen_ray.engine.inference.memory import is_out_of_memory

    return is_out_of_memory(error)


def _folder_exists() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; Ray's errors keep the error of another process as ``cause``."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        below = getattr(found, "cause", None)
        found = below if isinstance(below, BaseException) else found.__cause__


def remedy(error: Any) -> str:
    """Return what helps against an error of the command line: for the option of a setting, how that is given."""
    name = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    context = getattr(error, "ctx", None)
    takes = {parameter.name for parameter in context.command.params} if name and context else set()
    if "overrides" in takes and (key := _setting(name)):
        return f"settings are given as key=value: {key}=…"
    return "--help shows what there is"


def _setting(name: str) -> str | None:
    """Return the dotted key of a setting by its last part or all of it, or by the name that other verbs give it."""
    from gen_ray.experiment import Experiment

    sections = {section: field.annotation for section, field in Experiment.model_fields.items()}
    keys = [f"{section}.{key}" for section, kind in sections.items() for key in getattr(kind, "model_fields", ())]
    if name == "storage":
        return "storage.root"
    return next((key for key in keys if name in (key.replace(".", "_"), key.rpartition(".")[2])), None)


def one_line(text: str) -> str:
    """Return a text on one line of bearable length."""
    line = " ".join(text.split())
    return line if len(line) <= LINE else f"{line[: LINE // 2]} … {line[-LINE // 2 :]}"


def prepare_streams() -> None:
    """Let every character be printed: a terminal that knows ASCII only gets similar ones."""
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
    """Return the line for a word of the command line that is not text in the encoding of this terminal."""
    for word in words:
        if not word.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in word):
            return f"{word!a}: is not text in the encoding {sys.getfilesystemencoding()} (LANG=C.UTF-8 sets UTF-8)"
    return None


def find_home() -> None:
    """Set HOME to / for a user without a home, as Docker does: token, caches and ``~`` are looked for there."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def is_closed(number: int) -> bool:
    """Return whether the reader of a pipe that this process writes to has gone, as ``head`` does."""
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def flush() -> None:
    """Print the rest. What cannot be printed any more is dropped: its error is reported already."""
    try:
        for stream in filter(None, (sys.stderr, sys.stdout)):
            stream.flush()
    except OSError:
        discard_output()


def discard_output() -> None:
    """Write to nowhere from now on: Python would report at its end that it cannot flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
