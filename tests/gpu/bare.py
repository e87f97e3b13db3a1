"""A virtual environment with torch, its requirements and chosen packages, which simulates a bare machine.

Packages are links to those of this environment, so it is created in a second without downloads.
"""

import re
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).with_name("README.md")


def listed(part: str) -> dict[str, str]:
    """Return the packages of a part of the page and their versions, as in its ``pip install`` command."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {part}\n")[2].partition("\n## ")[0]
    found = re.search(r"pip install --no-deps --target \S+ -r tests/gpu/(\S+)", text)
    assert found, f"{PAGE}: {part} lacks a line pip install --no-deps --target FOLDER -r tests/gpu/FILE"
    lines = PAGE.with_name(found[1]).read_text(encoding="utf-8").split()
    assert all(line.count("==") == 1 for line in lines), f"{found[1]}: each line is NAME==VERSION"
    versions = dict(line.split("==") for line in lines)
    assert list(versions) == sorted(map(canonicalize_name, versions)), f"{found[1]}: must be sorted, in pip's spelling"
    return versions


def required(*names: str) -> set[str]:
    """Return these packages, ``name`` or ``name[extra]``, and all of their requirements that are installed here."""
    extras: dict[str, set[str]] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        one = waiting.pop()
        name, known = canonicalize_name(one.name), extras.get(canonicalize_name(one.name))
        more = {"", *one.extras} - (known or set())
        if not more:
            continue
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        extras[name] = (known or set()) | more
        requirements = [Requirement(line) for line in lines]
        waiting += [it for it in requirements if not it.marker or any(it.marker.evaluate({"extra": e}) for e in more)]
    return set(extras)


def make(folder: Path, packages: Iterable[str]) -> Path:
    """Create the environment with torch and its requirements, and folder/site with these packages; return its Python.

    As on the page, the packages are in a folder that only PYTHONPATH names.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    [own] = folder.glob("lib/python*/site-packages")
    (folder / "site").mkdir()
    torch = required("torch")
    for name in sorted({*packages, *torch}):
        site = own if name in torch else folder / "site"
        for top in tops(distribution(name)):
            if not (site / top.name).exists():
                (site / top.name).symlink_to(top)
    return folder / "bin" / "python"


def tops(package: Distribution) -> Iterator[Path]:
    """Yield the files and folders of a package at the top of site-packages."""
    for name in sorted({file.parts[0] for file in package.files or []} - {"..", "__pycache__"}):
        yield Path(str(package.locate_file(name)))


def modules(package: str) -> set[str]:
    """Return the names by which a package is imported."""
    return {path.name.partition(".")[0] for path in tops(distribution(package)) if path.suffix != ".dist-info"}
