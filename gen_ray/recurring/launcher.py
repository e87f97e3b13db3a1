"""What runs an occurrence: a process of this machine or a job of a Ray cluster."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

LOOK_SECONDS = 0.5
UNAVAILABLE = "cluster"
"""The reason of a RunError after which the same question may be answered later."""
Word = Literal["running", "done", "failed", "skipped", "missed", "waiting"]


@dataclass(frozen=True)
class OccurrenceState:
    """How far an occurrence is, and why it is there."""

    word: Word
    note: str = ""
    code: int = 0


class Launcher(Protocol):
    """Runs commands under ids. An id is launched once, however often it is asked for."""

    def launch(self, occurrence: str, words: Sequence[str], folder: Path) -> None:
        """Start ``python WORDS`` in folder under an id, unless that was done before. Raise RunError."""

    def state(self, occurrence: str) -> OccurrenceState | None:
        """Return the state of an id, None where it was never launched. Raise RunError where that cannot be known."""

    def free_ids(self, schedule: str, after: str) -> None:
        """Have the ids of a schedule that come after another one and ran already be launched when they are due.

        They ran when the clock was ahead. Raise RunError.
        """

    def close(self) -> None:
        """End what is not to outlive this process."""


def later(ids: Iterable[str], schedule: str, after: str) -> Iterator[str]:
    """Yield the ids of a schedule's occurrences whose time is after that of another one: they end with it."""
    for found in ids:
        if found.startswith(f"{schedule}-") and len(found) == len(after) and found > after:
            yield found


def wait(launcher: Launcher, occurrence: str) -> OccurrenceState | None:
    """Return the state in which an occurrence ends, None where it was never launched. Raise RunError."""
    while (state := launcher.state(occurrence)) is not None and state.word == "running":
        time.sleep(LOOK_SECONDS)
    return state
