"""The interface of launchers, which run occurrences as processes of this machine or as jobs of a Ray cluster."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

POLL_SECONDS = 0.5
UNAVAILABLE = "cluster"
"""The reason of a RunError after which another attempt may succeed."""
Word = Literal["running", "done", "failed", "skipped", "missed", "waiting"]


@dataclass(frozen=True)
class OccurrenceState:
    """The state of an occurrence, with a note on the reason and the exit code."""

    word: Word
    note: str = ""
    code: int = 0


class Launcher(Protocol):
    """Interface: runs commands under ids. Each id is launched at most once."""

    def launch(self, occurrence: str, words: Sequence[str], folder: Path) -> None:
        """Start ``python WORDS`` in folder under an id, unless the id was launched before. Raise RunError."""

    def state(self, occurrence: str) -> OccurrenceState | None:
        """Return the state of an id, or None if it was never launched. Raise RunError if the state is not available."""

    def free_ids(self, schedule: str, after: str) -> None:
        """Free the ids of a schedule that follow a given id and have ended, so that they are launched when due.

        They ran while the clock was ahead. Raise RunError.
        """

    def close(self) -> None:
        """End the commands that must not outlive this process."""


def later(ids: Iterable[str], schedule: str, after: str) -> Iterator[str]:
    """Yield the ids of a schedule's occurrences later than that of the id ``after``. An id ends with its time."""
    for found in ids:
        if found.startswith(f"{schedule}-") and len(found) == len(after) and found > after:
            yield found


def wait(launcher: Launcher, occurrence: str) -> OccurrenceState | None:
    """Wait for the end of an occurrence. Return its state, or None if it was never launched. Raise RunError."""
    while (state := launcher.state(occurrence)) is not None and state.word == "running":
        time.sleep(POLL_SECONDS)
    return state
