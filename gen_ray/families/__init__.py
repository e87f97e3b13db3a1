"""The families, found by module name: families/NAME defines ``FAMILY`` and is selected by ``family: {name: NAME}``.

To add a family, add a module; this file need not change.
"""

import importlib
import pkgutil

from gen_ray.errors import UserError, nearest, short
from gen_ray.family import Family


def names() -> list[str]:
    """Return the names of all families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Family]:
    """Return the family's class. Raise UserError with the known names for an unknown one."""
    if name not in names():
        raise UserError(f"family.name: there is no family {short(name)}; {nearest(name, names())}")
    found: type[Family] = importlib.import_module(f"{__name__}.{name}").FAMILY
    return found
