"""Changes of a configuration before its validation: overlays and ``dotted.key=value``."""

from collections.abc import Mapping
from typing import Any

from gen_ray.configuration import yaml12
from gen_ray.errors import UserError


def merge(raw: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Merge an overlay into a mapping, section by section. A section with another ``name`` is replaced completely."""
    for key, value in overlay.items():
        below = raw.get(key)
        if isinstance(value, Mapping) and isinstance(below, str):
            below = raw[key] = {"name": below}
        if isinstance(value, Mapping) and isinstance(below, dict) and value.get("name") in (None, below.get("name")):
            merge(below, value)
        else:
            raw[key] = value


def apply(raw: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value``. ``yaml12.value`` reads the value. Raise UserError."""
    key, separator, value = override.partition("=")
    if not separator or not all(key.strip().split(".")):
        raise UserError(f"{override!r}: an override is written key=value, e.g. training.epochs=10")
    put(raw, key.strip(), yaml12.value(value))


def put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key. Raise UserError if a parent of it is a single value."""
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        below = node.get(parent)
        if isinstance(below, str):  # ``schedule: cosine`` is short for ``schedule: {name: cosine}``
            below = {"name": below}
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise UserError(f"{key}: {parent} is a single value, it has no key below it")
        node[parent] = below
        node = below
    node[last] = value
