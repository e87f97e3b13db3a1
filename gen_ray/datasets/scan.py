"""Bounded scans of folders: a folder that holds mostly other things is refused, not read to its end."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gen_ray.errors import UserError

MOST_OTHERS, OTHERS_A_FILE = 200_000, 10
"""Limit of other entries in a scan: a constant, plus a number for each file of the kind."""


@dataclass
class Scan:
    """Counts the entries of a scan of a folder for files of a kind, e.g. ``images``."""

    folder: Path
    kind: str
    found: int = 0
    others: int = 0

    def count(self, *, found: bool) -> None:
        """Count an entry. Raise UserError where too many are of other kinds."""
        if found:
            self.found += 1
            return
        self.others += 1
        if self.others > MOST_OTHERS + OTHERS_A_FILE * self.found:
            raise UserError(
                f"{self.folder}: a scan stopped at {self.found:,} {self.kind} among {self.others:,} other entries; "
                f"name the folder that holds the {self.kind}, or move other files out of it"
            )


def walk(folder: Path, depth: int | None = None) -> Iterator[os.DirEntry[str]]:
    """Yield all entries below a folder without following links, at most depth levels of them; unreadable ones not."""
    pending = [(str(folder), 1)]
    while pending:
        here, level = pending.pop()
        try:
            with os.scandir(here) as found:
                for item in found:
                    if item.is_dir(follow_symlinks=False) and (depth is None or level < depth):
                        pending.append((item.path, level + 1))
                    yield item
        except OSError:
            continue  # glob passes over it, too


def is_folder(place: Path, *, missing: bool = False) -> bool:
    """Return whether a path of a scan leads to a folder.

    Raise UserError for a link to something missing and for what cannot be read, unless missing: it may be a folder, and
    the data would lack its files without a message.
    """
    try:
        return stat.S_ISDIR(place.stat().st_mode)
    except FileNotFoundError:
        if missing or not place.is_symlink():  # removed during the scan
            return False
        raise UserError(f"{place}: a link to a missing file or folder; repair or remove it") from None
    except OSError as error:
        if missing:
            return False
        raise UserError(f"{place}: cannot be read ({error.strerror})") from None
