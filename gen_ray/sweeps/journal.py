"""The journal file of a sweep's record. On an object store, which cannot append, the whole file is rewritten."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from gen_ray.errors import UserError, argument
from gen_ray.storage.paths import is_remote, write_atomic

OPERATION, CREATE_STUDY = "op_code", 0
"""Optuna's key in each entry, and its value in the first entry."""
logger = logging.getLogger(__name__)


def journal(file: Path) -> BaseJournalBackend:
    """Return the journal in a file, which may be missing. Raise UserError for a damaged file."""
    if is_remote(file):
        return Rewritten(file)
    _mend(file)
    return JournalFileBackend(str(file))


def check(file: Path) -> None:
    """Raise UserError for a damaged journal. An unfinished last line is not damage, see _mend."""
    _entries(file)


def _entries(file: Path) -> tuple[list[bytes], bytes]:
    """Return the lines of a journal, and the rest after the last line end. Raise UserError for a damaged line."""
    *lines, rest = file.read_bytes().split(b"\n") if file.exists() else [b""]
    for number, line in enumerate(lines, 1):
        operation = _operation(line)
        if operation is None or (number == 1 and operation != CREATE_STUDY):
            raise UserError(
                f"{file}: line {number} is damaged, so the sweep cannot be resumed: restore the file from a copy, or "
                f"start a new sweep without {argument('resume')}"
            )
    return lines, rest


def _operation(line: bytes) -> int | None:
    """Return the operation of an entry, or None if the line is not an entry."""
    try:
        found = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    operation = found.get(OPERATION) if isinstance(found, dict) else None
    return operation if isinstance(operation, int) else None


def _mend(file: Path) -> None:
    """Remove an unfinished last line, which remains if a process was killed or the disk was full.

    Otherwise the next entry would be appended to this line, and Optuna could read neither.
    """
    _, rest = _entries(file)
    if rest:
        logger.warning("%s: its last line is incomplete and is removed", file)
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size - len(rest))
            os.fsync(stream.fileno())


class Rewritten(BaseJournalBackend):
    """A journal in one object, which is rewritten for each entry. Only one process, the driver, may write it."""

    def __init__(self, file: Path) -> None:
        """Read the entries of the file. Raise UserError for a damaged journal."""
        self.file = file
        self.lines = [line.decode("utf-8") for line in _entries(file)[0]]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Yield the entries from a number on."""
        yield from map(json.loads, self.lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries and write the file."""
        self.lines += [json.dumps(entry, separators=(",", ":")) for entry in logs]
        write_atomic(self.file, "".join(f"{line}\n" for line in self.lines))
