"""Checks of the files that Ray uploads as a job's working directory: their size, and that the job finds its files."""

import logging
from collections.abc import Mapping
from pathlib import Path

from ray._private import ray_constants
from ray._private.runtime_env import packaging  # Ray's own walk, to exclude exactly the files that Ray excludes

from gen_ray.errors import UserError, argument

MEGABYTE = 2**20
LARGEST = 5


def contents(folder: Path) -> dict[Path, int]:
    """Return the files of a folder that Ray uploads and their sizes in bytes; .gitignore and .rayignore apply."""
    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    absolute = folder.absolute()
    defaults = ray_constants.get_runtime_env_default_excludes()
    quiet = logging.getLogger("gen_ray.package")
    quiet.setLevel(logging.WARNING)  # Ray logs every ignore file here
    excludes = packaging._get_excludes(absolute, defaults)
    packaging._dir_travel(absolute, [excludes], note, include_gitignore=True, logger=quiet)
    return sizes


def check(folder: Path, files: Mapping[Path, int], limit_mb: float) -> None:
    """Raise UserError, with the largest files, if a folder exceeds limit_mb megabytes."""
    size = sum(files.values())
    if size <= limit_mb * MEGABYTE:
        return
    largest = sorted(files, key=files.__getitem__, reverse=True)[:LARGEST]
    named = ", ".join(f"{file.relative_to(folder.absolute())} {files[file] / MEGABYTE:,.1f} MB" for file in largest)
    raise UserError(
        f"{folder}: {size / MEGABYTE:,.1f} MB would be uploaded, the limit is {limit_mb:g} ({argument('limit_mb')}): "
        f"the largest are {named}; name what the job does not need in .gitignore or .rayignore"
    )


def check_words(folder: Path, files: Mapping[Path, int], words: list[str]) -> None:
    """Raise UserError if an argument names a local file that the job's copy of the folder does not contain."""
    for word in words:
        if Path(word).is_file() and (Path(word).is_absolute() or folder.absolute() / word not in files):
            raise UserError(
                f"{word}: the job would not find it: the job runs in a copy of {folder.absolute()} without the files "
                "that .gitignore and .rayignore exclude; give a path relative to that folder"
            )
