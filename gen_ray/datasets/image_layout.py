"""The layout of a folder of images: its image files, with the classes and splits by the names of folders."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gen_ray.datasets.images import SUFFIXES
from gen_ray.datasets.rows import Split
from gen_ray.datasets.scan import Scan, is_folder
from gen_ray.errors import UserError

SPLIT_NAMES: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Splits by the lower-case names that publishers give to their folders."""
CLASS_DEPTH = 2
"""Depth of class folders: in the folder, or in the folder of a split."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image file, by its path below the folder, with the class and the split from its folders' names."""

    file: Path
    label: str | None = None
    split: Split | None = None


def split_of(name: str) -> Split | None:
    """Return the split of a folder's name, or None if the name is not that of a split."""
    return SPLIT_NAMES.get(name.lower())


def entries(folder: Path) -> list[Entry]:
    """Return the image files below a folder in a fixed order.

    Raise UserError for a missing folder, one without images, one of mostly other files, and an ambiguous layout.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    files = sorted(file.relative_to(folder) for file in _below(folder))
    if not files:
        raise UserError(f"{folder}: no image files ({' '.join(SUFFIXES)})")
    split_names = _splits(folder, files)
    if not split_names:
        return _labelled(folder, files, depth=0)
    found = [entry for name in split_names for entry in _labelled(folder, files, depth=1, split_name=name)]
    unlabelled = {entry.file.parts[0] for entry in found if entry.label is None}
    if unlabelled and len(unlabelled) < len(split_names):
        raise UserError(f"{folder}: {min(unlabelled)} lacks the class folders of other splits; use one layout")
    return sorted(found, key=lambda entry: entry.file)


def _splits(folder: Path, files: list[Path]) -> list[str]:
    """Return the names of the sub-folders that are splits: a training split and at least one other."""
    top = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    named = [name for name in top if split_of(name)]
    kinds = [split_of(name) for name in named]
    if "train" not in kinds or len(named) < 2:
        return []
    others = [name for name in top if name not in named] + [str(file) for file in files if len(file.parts) == 1]
    if others or len(set(kinds)) < len(kinds):
        conflict = f"beside {others[0]}" if others else "two of one meaning"
        raise UserError(f"{folder}: {', '.join(named)} are named like splits, {conflict}; move or rename one of them")
    return named


def _labelled(folder: Path, files: list[Path], *, depth: int, split_name: str = "") -> list[Entry]:
    """Return the entries of one layout; class folders are at a depth below the folder."""
    mine = [file for file in files if not split_name or file.parts[0] == split_name]
    flat = [file for file in mine if len(file.parts) == depth + 1]
    if flat and len(flat) < len(mine):
        raise UserError(f"{folder}: holds both images ({flat[0]}) and folders of images; use one or the other")
    split = split_of(split_name)
    return [Entry(file=file, label=None if flat else file.parts[depth], split=split) for file in mine]


def _below(folder: Path) -> list[Path]:
    """Return the image files below a folder, without hidden names. Raise UserError for a folder of mostly other files.

    Links to files are followed. Links to folders are followed within the folder, each loop once. Links out of the
    folder are followed only at the level of class folders, in the folder or in a sub-folder of it.
    """
    scan, root, images, outside = Scan(folder, "images"), os.path.realpath(folder), [], []
    pending: list[tuple[Path, frozenset[str]]] = [(folder, frozenset({root}))]
    while pending:
        here, above = pending.pop()
        near = len(here.relative_to(folder).parts) < CLASS_DEPTH
        for item in _items(here):
            place = here / item.name
            is_image = place.suffix.lower() in SUFFIXES
            if not is_folder(place, missing=is_image):
                scan.count(found=is_image)
                images += [place] * is_image
                continue
            scan.count(found=False)
            real = os.path.realpath(item.path)
            if item.is_symlink() and not near and not Path(real).is_relative_to(root):
                outside.append(place)
            elif real not in above:
                pending.append((place, above | {real}))
    if outside:
        log.warning("%s: %d links to folders outside are not followed, e.g. %s", folder, len(outside), min(outside))
    return images


def _items(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from (item for item in found if not item.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
