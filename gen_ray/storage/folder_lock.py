"""A lock by which one process at a time makes a folder below storage.root."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from gen_ray.storage.paths import beside

UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time make a folder; the lock ends with its process.

    On an object store one process of each machine; on a file system without locks any number, which commit allows.
    """
    home = beside(folder.parent)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / f".{folder.name}.lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in UNLOCKABLE:
            raise
        logging.getLogger(__name__).warning("%s: its file system lacks locks; others may make it too", folder)
    try:
        yield
    finally:
        lock.release()
