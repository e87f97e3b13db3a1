"""Bounded scans of folders. The scan of a folder with mostly other files is stopped by an error."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gen_ray.errors import UserError

MAX_OTHERS, OTHERS_PER_FILE = 200_000, 10
"""Limit of other entries in a scan: a constant, plus a number for each file of the wanted kind."""


@dataclass
class Scan:
    """Counter of the entries in a scan of a folder for files of a kind, e.g. ``images``."""

    folder: Path
    kind: str
    found: int = 0
    others: int = 0

    def count(self, *, found: bool) -> None:
        """Count an entry. Raise UserError if too many entries are of other kinds."""
        if found:
            self.found += 1
            return
        self.others += 1
        if self.others > MAX_OTHERS + OTHERS_PER_FILE * self.found:
            raise UserError(
                f"{self.folder}: a scan stopped at {self.found:,} {self.kind} among {self.others:,} other entries; "
                f"name the folder that holds the {self.kind}, or move other files out of it"
            )


def walk(folder: Path, depth: int | None = None) -> Iterator[os.DirEntry[str]]:
    """Yield the entries below a folder, at most depth levels, without following links or reading unreadable folders."""
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
            continue  # as glob does


def is_folder(place: Path, *, missing: bool = False) -> bool:
    """Return whether a path of a scan is a folder or a link to one.

    Raise UserError for a broken link or an unreadable path, unless missing is True. It may be a folder, whose files
    would be silently absent from the data.
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
