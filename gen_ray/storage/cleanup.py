"""Removal of the empty folders that a rejected command has created."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gen_ray.storage.paths import is_remote


@contextmanager
def cleanup_on_error(*folders: Path) -> Iterator[None]:
    """Remove the empty folders at these paths or above that the block created, if it raises an error.

    Thus a rejected command does not change the storage. Folders that existed before, or that are not empty, stay.
    """
    above = {parent for folder in folders if not is_remote(folder) for parent in (folder, *folder.parents)}
    missing = [folder for folder in above if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        for folder in sorted(missing, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # it was not created, or it is not empty
                folder.rmdir()
        raise
