"""The file of a sweep's record: a journal that is appended to, or on an object store, which cannot, written anew."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from gen_ray.storage import is_remote, write_whole


def journal(file: Path) -> BaseJournalBackend:
    """Return the journal in a file, which need not be there yet."""
    return Rewritten(file) if is_remote(file) else JournalFileBackend(str(file))


class Rewritten(BaseJournalBackend):
    """A journal in one object, by the only process that writes it: a sweep has one driver."""

    def __init__(self, file: Path) -> None:
        """Read what is there."""
        self.file = file
        self.lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Yield the entries from one on."""
        yield from map(json.loads, self.lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries."""
        self.lines += [json.dumps(entry, separators=(",", ":")) for entry in logs]
        write_whole(self.file, "".join(f"{line}\n" for line in self.lines))
