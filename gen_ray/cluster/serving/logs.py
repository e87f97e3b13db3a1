"""Log files of a served application, shared by its processes on a machine."""

import logging
import os
import socket
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from filelock import FileLock

LOG_BYTES, LOG_FILES = 20 * 2**20, 5


class SharedFileHandler(RotatingFileHandler):
    """A rotating log file shared by several processes. A file lock lets one of them write or rotate at a time.

    Without the lock two processes could rotate at once, and one would continue to write to a renamed file.
    """

    def __init__(self, file: Path, **rotation: Any) -> None:
        super().__init__(file, delay=True, **rotation)
        self._lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=5)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. A failure is reported on stderr, as usual in logging."""
        try:
            with self._lock:
                self._follow()
                super().emit(record)
        except Exception:
            self.handleError(record)

    def _follow(self) -> None:
        """Reopen the file if another process has renamed it."""
        if self.stream is None:
            return
        path = Path(self.baseFilename)
        if not path.exists() or os.fstat(self.stream.fileno()).st_ino != path.stat().st_ino:
            self.stream.close()
            self.stream = self._open()


def write(folder: Path) -> None:
    """Log requests as JSON lines to access-HOST.jsonl in folder, and everything else to errors-HOST.log.

    The latter contains failures and version changes. Further calls have no effect.
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
