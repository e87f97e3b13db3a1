"""The families, found by file name: families/NAME.py holds ``FAMILY`` and is chosen by ``family: {name: NAME}``.

A further family is a further file; nothing here changes.
"""

import importlib
import pkgutil

from gen_ray.errors import UserError, nearest, short
from gen_ray.family import Family


def names() -> list[str]:
    """Return the families there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Family]:
    """Return the family's class. Raise UserError naming the known ones."""
    if name not in names():
        raise UserError(f"family.name: there is no family {short(name)}; {nearest(name, names())}")
    found: type[Family] = importlib.import_module(f"{__name__}.{name}").FAMILY
    return found
