"""Log files of a served application, to which all of its processes on a machine append."""

import logging
import os
import socket
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from filelock import FileLock

LOG_BYTES, LOG_FILES = 20 * 2**20, 5


class SharedFileHandler(RotatingFileHandler):
    """A rotating log file of several processes: one of them writes or rotates at a time.

    Without the lock two processes would rotate at once, and one would go on writing to a file that has been renamed.
    """

    def __init__(self, file: Path, **rotation: Any) -> None:
        super().__init__(file, delay=True, **rotation)
        self._turn = FileLock(file.with_name(f".{file.name}.lock"), timeout=5)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that cannot be written is reported on stderr, as logging does."""
        try:
            with self._turn:
                self._follow()
                super().emit(record)
        except Exception:
            self.handleError(record)

    def _follow(self) -> None:
        """Open the file again where another process has renamed it."""
        if self.stream is None:
            return
        path = Path(self.baseFilename)
        if not path.exists() or os.fstat(self.stream.fileno()).st_ino != path.stat().st_ino:
            self.stream.close()
            self.stream = self._open()


def write(folder: Path) -> None:
    """Write a line of JSON for each request to access-HOST.jsonl in folder, and all other lines to errors-HOST.log.

    The latter has failures and the changes of versions. A second call changes nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    for name, file, form in (
        ("gen_ray.access", f"access-{host}.jsonl", "%(message)s"),
        ("gen_ray", f"errors-{host}.log", "%(asctime)s %(levelname)s %(message)s"),
    ):
        logger = logging.getLogger(name)
        if any(isinstance(handler, SharedFileHandler) for handler in logger.handlers):
            continue
        handler = SharedFileHandler(folder / file, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
        handler.setFormatter(logging.Formatter(form))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
