"""The check for files of the user that shadow packages: Python would import them instead of the package."""

import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from gen_ray.errors import UserError

OWN = frozenset({"gen_ray", "pipelines", "tests"})


def check(folder: Path) -> None:
    """Raise UserError with the files of a folder that shadow packages, if Python searches the folder first."""
    found = list(shadows(folder)) if _is_first(folder) else []
    if found:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{folder}: {names} would be imported instead of the package of that name; rename or move it")


def shadows(folder: Path) -> Iterator[Path]:
    """Yield the modules and packages of a folder that have the name of an installed or a standard one."""
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != folder.resolve()]
    for file in sorted(folder.iterdir()):
        name = file.stem if file.suffix == ".py" else file.name
        is_module = file.suffix == ".py" or (file / "__init__.py").is_file()
        if not is_module or not name.isidentifier() or name in OWN:
            continue
        if name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere):
            yield file


def _is_first(folder: Path) -> bool:
    """Return whether the folder comes before the installed packages in sys.path."""
    for path in sys.path:
        if Path(path or ".").resolve() == folder.resolve():
            return True
        if Path(path).name in ("site-packages", "dist-packages"):
            return False
    return False
