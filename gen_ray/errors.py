"""The two ways a run ends badly on purpose. Everything else is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable

LONGEST_SHOWN = 200
"""Characters of a value that errors show."""
LISTED = 30
"""Names in a hint; there may be thousands of runs."""


class UserError(Exception):
    """The user's mistake (exit code 2): one line that names the thing at fault and the remedy."""


class RunError(Exception):
    """The run could not go on (exit code 1): one line that says what stopped it and what is kept."""

    def __init__(self, message: str, *, reason: str = "stopped") -> None:
        """Keep a one-word reason for those who count failures."""
        super().__init__(message)
        self.reason = reason


class SharedError(RunError):
    """What every rank of a training raises at the same step: nobody waits for anybody, and all may simply return."""


class EndedError(BaseException):
    """The user or a scheduler ended the work: not an error of it, but nothing that may pass for its success either."""

    def __init__(self, message: str = "terminated", code: int = 143) -> None:
        """Keep the exit code: 143 after SIGTERM, 130 after Ctrl-C."""
        super().__init__(message)
        self.code = code


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'cosine'? (known: cosine, linear)`` for a misspelt word.

    Where nothing is known the hint says so.
    """
    names = sorted(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    listing = f"known: {', '.join(names[:LISTED])}{more}"
    return f"did you mean '{close[0]}'? ({listing})" if close else listing


def short(value: object) -> str:
    """Return a value as an error shows it: a long one shortened."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(text):,} characters)"
