"""The interface of sources of rows, and their settings."""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from gen_ray.datasets.rows import BadRow, Batch
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.storage.user_paths import local
from gen_ray.tabular.inference import Finding
from gen_ray.tabular.options import ColumnOptions, TableOptions

BATCH_VALUES = 2**20
"""Approximate maximum number of scalars of a batch, so that memory does not grow with the data set."""

EXAMPLE_VALUES = 2**26
"""Maximum number of scalars in an example, about the maximum number of pixels of an image."""


def _of_few_values(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > EXAMPLE_VALUES:
        raise ValueError(f"must have at most {EXAMPLE_VALUES:,} values")
    return shape


class SourceOptions(TableOptions):
    """Settings of the sources. A setting without effect on a source is an error.

    length: characters of an example (text). image_size: side in pixels after scaling and centre-cropping
    (image_folder). levels: number of grey levels to which images are quantised (any image source). shape: shape of an
    example (parquet). The settings of tables are those of ``TableOptions``.
    """

    length: int = Field(default=256, ge=1, le=1_000_000, description="characters of an example (text)")
    image_size: int | None = Field(
        default=None, ge=1, le=4096, description="side in pixels after scaling and cropping (image_folder)"
    )
    levels: int | None = Field(default=None, ge=2, le=256, description="grey levels to which images are quantised")
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], AfterValidator(_of_few_values)] | None = (
        Field(default=None, min_length=1, max_length=3, description="shape of an example (parquet)")
    )

    def recorded(self) -> dict[str, object]:
        """Return the settings as JSON, those of tables only if they are not the defaults.

        The folder of prepared data is named by a hash of them, which must not change for other sources.
        """
        raw, defaults = self.model_dump(mode="json"), TableOptions().model_dump(mode="json")
        return {key: value for key, value in raw.items() if key not in defaults or value != defaults[key]}

    def without_bins(self) -> "SourceOptions":
        """Return the settings with the default intervals, which therefore decide only which values are read."""
        default = ColumnOptions()
        own = {name: column.model_copy(update={"bins": None}) for name, column in self.columns.items()}
        changed = {name: column for name, column in own.items() if column != default}
        return self.model_copy(update={"bins": TableOptions().bins, "columns": changed})


class DataSource(ABC):
    """Interface of a source of rows. Creating a source does not read data, and rows are read in batches."""

    argument: ClassVar[str] = ""
    """Description of the argument after the colon in ``name:ARGUMENT``; empty if the source has no argument."""
    used_options: ClassVar[frozenset[str]] = frozenset({"levels"})
    """Names of the SourceOptions that have an effect."""

    def __init__(self, argument: str, root: Path | None, options: SourceOptions) -> None:
        """Take the argument, a path. Relative paths start at root, or else at the current folder."""
        self.path = (root or Path()) / local(argument)
        self.root, self.options = root, options

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the name of the data set."""

    @abstractmethod
    def signature(self) -> list[list[object]]:
        """Return cheap values that change with the data: paths, sizes and times of the files, or a version."""

    def content(self) -> list[str]:
        """Return values that determine the rows: names and digests of the files, which are read, or a version."""
        return [self.name, json.dumps(self.signature())]

    @abstractmethod
    def spec(self) -> DataSpec:
        """Return shape and alphabet. Data are read as far as necessary. Raise UserError if the source is empty."""

    @property
    def findings(self) -> Sequence[Finding]:
        """Return the columns of a table as they were found, also those that are left out; none for other data."""
        return ()

    def notes(self) -> list[str]:
        """Return lines about the data for the user, e.g. columns of a table that are left out."""
        return [line for finding in self.findings for line in finding.lines]

    @abstractmethod
    def rows(self, spec: DataSpec) -> Iterator[Batch | BadRow]:
        """Yield all rows in a fixed order, x in {0 … spec.levels-1}. Bad rows are yielded as BadRow."""


def check_used(options: SourceOptions, used: frozenset[str], remedy: str) -> None:
    """Raise UserError for a setting that differs from its default without being one of those used."""
    defaults = SourceOptions()
    for key in type(options).model_fields:
        if key not in used and getattr(options, key) != getattr(defaults, key):
            raise UserError(f"data.options.{key} is without effect on {remedy}", field="option", value=key)


def stamps(files: Iterable[Path], base: Path) -> list[list[object]]:
    """Return (path below base, bytes, nanoseconds of last change) of every file. A broken link counts as a file."""
    found = ((file, file.stat() if file.exists() else file.lstat()) for file in files)
    return [[file.relative_to(base).as_posix(), stat.st_size, stat.st_mtime_ns] for file, stat in found]


def plain_name(text: str) -> str:
    """Return text as a name of 1 to 48 characters of A-Z a-z 0-9 . _ - that does not start with a dot or dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:48] or "data"


def checked_levels(highest: int, where: str) -> int:
    """Return the number of levels of data in {0 … highest}. Raise UserError for more than 65536."""
    if highest >= 2**16:
        raise UserError(f"{where}: values go up to {highest}; a data set has at most 65536 levels, 0 to 65535")
    return max(2, highest + 1)
