"""A prepared data set: a folder with the digests of all its files in MANIFEST.sha256."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from gen_ray.datasets.rows import SPLITS
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError, nearest
from gen_ray.storage import manifest, paths

FORMAT = 1
SPEC = "spec.json"


class DataError(UserError):
    """A file of a prepared data set is missing or damaged."""

    def __init__(self, path: Path, fault: str) -> None:
        """Take the file and the problem. The message also contains the remedy."""
        super().__init__(f"{path}: {fault}; remove the folder {path.parent} and prepare again")
        self.path, self.fault = path, fault


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A Parquet file of a split with its rows first_row … first_row + rows - 1."""

    path: Path
    sha256: str
    rows: int
    first_row: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A complete prepared folder. ``fingerprint`` is a hash of the shards; ``rows`` has the number of rows by split.

    ``source_fingerprint`` of a table is a hash of its files and of all options except bins, so that it identifies rows
    in any coding; it is empty for other data, and for folders of earlier versions.
    """

    folder: Path
    spec: DataSpec
    rows: dict[str, int]
    fingerprint: str
    source: str
    source_fingerprint: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    quarantined: int = 0
    notes: tuple[str, ...] = ()
    """Lines about the data for the user, e.g. columns that were left out."""
    files: Mapping[str, tuple[Shard, ...]] = field(repr=False)

    def shards(self, split: str) -> list[Shard]:
        """Return the shards of a split in order. Raise UserError for an unknown split."""
        if split not in self.files:
            raise UserError(f"unknown split {split!r}: {nearest(split, self.files)}")
        return list(self.files[split])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a prepared folder and check it, except the shards' content, which ``read_shard`` checks.

        Raise UserError if it is not a prepared folder, DataError with the file if it is damaged.
        """
        folder = folder.absolute()
        home = paths.current_version(folder)
        digests = read_manifest(home)
        about = _read_spec(home, digests)
        files: dict[str, tuple[Shard, ...]] = {
            split: tuple(_shards(home, about["shards"][split], digests)) for split in SPLITS
        }
        if about["fingerprint"] != fingerprint(shard.sha256 for split in SPLITS for shard in files[split]):
            raise DataError(home / manifest.NAME, f"the shards it lists are not those of {SPEC}")
        return cls(
            folder=folder,
            spec=DataSpec.model_validate(about["spec"]),
            rows=about["rows"],
            files=files,
            fingerprint=about["fingerprint"],
            source=about["source"],
            source_fingerprint=about.get("source_fingerprint", ""),
            options=about["options"],
            quarantined=about["quarantined"],
            notes=tuple(about.get("notes", ())),
        )


def fingerprint(digests: Iterable[str]) -> str:
    """Return the SHA-256 of the shards' SHA-256 digests in their order."""
    return sha256("".join(digests).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file by name. Raise UserError if the manifest or a file is missing or malformed."""
    if not (folder / manifest.NAME).is_file():
        raise UserError(f"{folder}: is not a prepared data set ({manifest.NAME} is missing); run gen-ray prepare")
    try:
        digests = manifest.read(folder)
    except manifest.DamagedError as error:
        raise DataError(folder / manifest.NAME, "damaged") from error
    present = {file.name for file in folder.iterdir()}
    for name in digests:
        if name not in present:
            raise DataError(folder / name, "missing")
        if not name.endswith(".parquet"):
            checked_bytes(folder / name, digests[name])
    return digests


def checked_bytes(path: Path, digest: str) -> bytes:
    """Return a file's content. Raise DataError if it is missing or its SHA-256 is not digest."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(path, "missing") from error
    if sha256(content).hexdigest() != digest:
        raise DataError(path, f"damaged: {len(content)} bytes whose SHA-256 differs from {manifest.NAME}")
    return content


def _read_spec(folder: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    if SPEC not in digests:
        raise DataError(folder / manifest.NAME, f"does not list {SPEC}")
    about = json.loads((folder / SPEC).read_bytes())
    if about["format"] != FORMAT:
        raise DataError(folder / SPEC, f"format {about['format']}, where this gen_ray reads {FORMAT}")
    return about


def _shards(folder: Path, rows: Mapping[str, int], digests: Mapping[str, str]) -> Iterable[Shard]:
    first = 0
    for name, count in rows.items():
        if name not in digests:
            raise DataError(folder / manifest.NAME, f"does not list {name}")
        yield Shard(path=folder / name, sha256=digests[name], rows=count, first_row=first)
        first += count
