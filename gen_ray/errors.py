"""Exceptions that end a program with one line. Any other exception is a bug and is shown with its traceback."""

import copyreg
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_SHOWN = 200
"""Number of characters of a value that error messages show."""
LISTED = 30
"""Number of names in a hint; there may be thousands of runs."""
COMPARED = 5_000
"""Number of names that a misspelt word is compared with, which takes up to a second."""


class PicklableError(Exception):
    """An error that pickle, and therefore Ray, copies with its message and all its attributes.

    Pickle rebuilds Python's own exceptions from the message, which fails if ``__init__`` takes other arguments.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how pickle copies the error: without ``__init__``, from the message and the attributes."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class UserError(PicklableError):
    """A mistake of the user (exit code 2). Its message is one line with the cause and the remedy.

    field: the name of the wrong argument, as in Python. The message then begins with it, and with its value if given.
    """

    def __init__(self, message: str, *, field: str = "", value: object = None) -> None:
        """Take the message, and the argument that it is about."""
        super().__init__(f"{argument(field, value)}: {message}" if field else message)
        self.field = field


class RunError(PicklableError):
    """A run that cannot continue (exit code 1). Its message is one line: the cause, and which results are kept."""

    def __init__(self, message: str, *, reason: str = "stopped") -> None:
        """Take the message and a one-word reason, by which failures are counted."""
        super().__init__(message)
        self.reason = reason


class SharedError(RunError):
    """An error that every rank of a training raises at the same step, so that no rank waits for another one."""


class EndedError(BaseException):
    """The end of a program by the user or a cluster's scheduler. It is neither an error nor a success."""

    def __init__(self, message: str = "terminated", code: int = 143) -> None:
        """Take the message and the exit code: 143 after SIGTERM, 130 after Ctrl-C."""
        super().__init__(message)
        self.code = code


def argument(name: str, value: object = None) -> str:
    """Return how messages of the library write an argument: ``argument `name` ``, or ``argument `name=value` ``.

    The command line shows its flag instead, because its users do not know the library's arguments. Only this function
    writes "argument" before a backquote; all other words in backquotes stay as they are.
    """
    return f"argument `{name}`" if value is None else f"argument `{name}={value}`"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'cosine'? (known: cosine, linear)`` for a misspelt word.

    Without known words the hint is ``there are none``.
    """
    names = sorted(known)
    if not names:
        return "there are none"
    candidates = [name for name in names if len(name) <= LONGEST_SHOWN][:COMPARED]
    close = difflib.get_close_matches(word[:LONGEST_SHOWN], candidates, n=1, cutoff=0.5)
    listing = f"known: {listed(names, LISTED)}"
    return f"did you mean '{plain(close[0])}'? ({listing})" if close else listing


def plain(name: str) -> str:
    """Return a name for messages: escaped if it would break the line or control the terminal, and not too long."""
    return name if name.isprintable() and len(name) <= LONGEST_SHOWN else short(name)


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return the first names of a list for messages, and the number of the others."""
    return ", ".join(map(plain, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where the message is empty."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, that of the cause where the message is a traceback."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]


def one_line(error: BaseException, longest: int = LONGEST_SHOWN) -> str:
    """Return the start of an error's message on one line, or the name of its type where the message is empty."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def short(value: object) -> str:
    """Return a value as text for an error message, shortened to LONGEST_SHOWN characters."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(text):,} characters)"
