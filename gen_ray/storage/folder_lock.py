"""A lock that lets one process at a time create a folder below storage.root."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from gen_ray.storage.paths import local_dir

UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. It is released when its process ends.

    On an object store each machine has its own lock. A file system without locks does not limit the processes, which
    ``paths.commit`` allows.
    """
    home = local_dir(folder.parent)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / f".{folder.name}.lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in UNLOCKABLE:
            raise
        logging.getLogger(__name__).warning(
            "%s: its file system lacks locks; other processes may create the folder too", folder
        )
    try:
        yield
    finally:
        lock.release()
