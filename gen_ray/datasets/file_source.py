"""The files of a source, by a name or pattern."""

import glob
import hashlib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import ClassVar

from gen_ray.datasets.scan import Scan, is_folder, walk
from gen_ray.datasets.source import DataSource, plain_name, stamps
from gen_ray.errors import UserError


class FileSource(DataSource):
    """A source of the files that a name or pattern selects."""

    argument = "GLOB"
    prefix: ClassVar[str]
    """The name of the source, also the suffix of its files."""
    label: ClassVar[str]
    """The name of its format."""

    @property
    def name(self) -> str:
        """Return the file's name without its suffix, or for a pattern the name of ``base``."""
        return plain_name(self.path.stem if self.path.is_file() else self.base.absolute().name)

    @cached_property
    def base(self) -> Path:
        """Return the longest leading folder without wildcards. Names of existing folders do not count as wildcards."""
        folders = [*reversed(self.path.parents)]
        plain = takewhile(lambda folder: not glob.has_magic(folder.name) or folder.is_dir(), folders)
        return [*plain][-1]

    @cached_property
    def files(self) -> list[Path]:
        """Return the files in a fixed order. Raise UserError if there are none."""
        if self.path.is_file():
            return [self.path]
        if self.path.is_dir():
            raise UserError(f"{self.path}: a folder, not a file; write {self.prefix}:{self.path}/*.{self.prefix}")
        matches = _matching(self.base, self.path.relative_to(self.base))
        found = sorted(file for file in matches if not is_folder(file) and file.is_file())
        if not found:
            here = "" if self.root or self.path.is_absolute() else f" in {Path.cwd()}; data.root names another folder"
            raise UserError(f"{self.path}: no {self.label} file by this name or pattern{here}")
        return found

    def signature(self) -> list[list[object]]:
        """Return the stamps of all files."""
        return stamps(self.files, self.base)

    def content(self) -> list[str]:
        """Return the name below ``base`` and the SHA-256 of each file. The split of a row depends on the name."""
        found = list[str]()
        for file in self.files:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            found.append(f"{file.relative_to(self.base).as_posix()} {digest}")
        return found


def _matching(base: Path, pattern: Path) -> Iterator[Path]:
    """Yield the matches of a pattern below a folder. ``**`` does not follow links to folders.

    Raise UserError if a pattern with several wildcards would scan mostly other entries.
    """
    if sum(map(glob.has_magic, pattern.parts)) > 1:
        scan = Scan(base, "files that match")
        for item in walk(base, None if "**" in pattern.parts else len(pattern.parts)):
            scan.count(found=fnmatch(item.name, pattern.name))
    if "**" not in pattern.parts:
        yield from (base / name for name in glob.iglob(str(pattern), root_dir=base))
        return
    hidden = any(part.startswith(".") for part in pattern.parts)
    for file in base.glob(str(pattern)):  # unlike glob.glob, it does not follow links
        if hidden or not any(part.startswith(".") for part in file.relative_to(base).parts):
            yield file
