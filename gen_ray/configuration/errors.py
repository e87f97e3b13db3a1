"""One-line messages for pydantic's errors in a configuration: the key's path, the error, the nearest key."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gen_ray.configuration.renamed import RENAMED
from gen_ray.errors import nearest, short

SECTION = "a section such as {key: value}"
EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "list": "a list",
    "tuple": "a list",
    "dict": SECTION,
    "mapping": SECTION,
    "model": SECTION,
    "path": "a path",
    "datetime": "a date and time, e.g. 2026-01-31T02:00:00Z",
}
"""Expected values by the first word of the type of pydantic's error."""
TRUTH_VALUE = "truth_value"
"""The type of the error for true or false as the value of a number."""
TEXT = ("must be a string", "must be a path", "must be a path or URI")
Kind = Literal["key", "index", "tag", "type"]


@dataclass(frozen=True)
class Fault:
    """An error of pydantic with the path of keys to it."""

    error: ErrorDetails
    keys: tuple[str, ...]
    union: tuple[str, ...] | None
    """Path of keys to a value of a union type if this is the error of one of the types, else None."""


def explain(model: type[BaseModel], errors: Sequence[ErrorDetails], path: str) -> str:
    """Return the message for the first of pydantic's errors in a model. path: the key of the model itself."""
    schema = _schema(model)
    faults = [_fault(schema, error) for error in errors]
    places = list(dict.fromkeys(fault.union or fault.keys for fault in faults))
    same = [fault for fault in faults if (fault.union or fault.keys) == places[0]]
    # The error of a list's item says more than that of the list.
    deepest = max(same, key=lambda fault: len(fault.keys)).keys
    same = [fault for fault in same if fault.keys == deepest]
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return _line(schema, same, path) + more


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _line(schema: dict[str, Any], same: Sequence[Fault], path: str) -> str:
    first, *parents = same[0], *same[0].keys[:-1]
    key = ".".join(step for step in (path, *first.keys) if step)
    if first.error["type"] == "extra_forbidden":
        if key in RENAMED:
            return f"{key}: is now called {RENAMED[key]}"
        where = ".".join(step for step in (path, *parents) if step) or "the configuration"
        known = _properties(schema, _follow(schema, first.error["loc"][:-1]))
        return f"{key}: {where} has no such key; {nearest(first.keys[-1], known)}"
    if first.error["type"] == "missing":
        return f"{key}: is required"
    given = first.error["input"]
    if first.error["type"] == "union_tag_invalid":
        tag = str(first.error["ctx"]["tag"])
        known = [name for node in _options(schema, _follow(schema, first.error["loc"])) for name in _tags(node)]
        return f"{key}.name: {nearest(tag, known)}, got {short(tag)}"
    problem = _alternatives([fault.error for fault in same])
    shown = "" if isinstance(given, Mapping | BaseModel) else f", got {short(given)}"
    remedy = "; write it in quotes ('\"…\"' in a shell)" if problem in TEXT and given is not None else ""
    return ": ".join(part for part in (key, f"{problem}{shown}{remedy}") if part)


def _alternatives(errors: Sequence[ErrorDetails]) -> str:
    """Return the requirement on a value of a union type. If the value has one of the types, only its limits count."""
    limits = [error for error in errors if error["type"] != "literal_error" and not _is_of_another_type(error)]
    texts = list(dict.fromkeys(_text(error) for error in limits or errors))
    return ", or ".join([texts[0], *(text.removeprefix("must be ") for text in texts[1:])])


def _is_of_another_type(error: ErrorDetails) -> bool:
    return error["type"].endswith(("_type", "_parsing", "_from_float"))


def _text(error: ErrorDetails) -> str:
    """Return the text of an error without the names of Python's types."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "model_attributes_type":
        return "must be a name, or a section such as {name: …}"
    if _is_of_another_type(error) and (expected := EXPECTED.get(kind.split("_")[0])):
        return f"must be {expected}"
    if kind == "invalid_key":
        return "a key must be text"
    if kind in ("too_long", "too_short"):
        most = context.get("max_length", context.get("min_length"))
        return f"must have at {'most' if kind == 'too_long' else 'least'} {most} items, has {context['actual_length']}"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return text if text == error["msg"].removeprefix("Value error, ") else f"must be {text}"


def _fault(schema: dict[str, Any], error: ErrorDetails) -> Fault:
    keys: list[str] = []
    union: tuple[str, ...] | None = None
    for step, kind in _steps(schema, error):
        if kind in ("key", "index"):
            keys.append(str(step))
        elif kind == "type" and union is None:
            union = tuple(keys)
    if error["type"] == TRUTH_VALUE:
        keys.append(error["ctx"]["key"])
    return Fault(error, tuple(keys), union)


def _steps(schema: dict[str, Any], error: ErrorDetails) -> Iterator[tuple[int | str, Kind]]:
    """Yield each step of an error's location with its kind. Only keys and indices are in the user's file."""
    nodes = [schema]
    for index, step in enumerate(error["loc"]):
        last = index == len(error["loc"]) - 1
        below = _below(schema, nodes, step)
        if isinstance(step, int):
            yield step, "index"
        elif any(step in _tags(node) for node in _options(schema, nodes)):
            yield step, "tag"
        elif below or (last and error["type"] == "extra_forbidden"):
            yield step, "key"
        else:
            yield step, "type"
            continue
        nodes = below


def _follow(schema: dict[str, Any], loc: Sequence[int | str]) -> list[dict[str, Any]]:
    nodes = [schema]
    for step in loc:
        nodes = _below(schema, nodes, step) or nodes
    return nodes


def _below(schema: dict[str, Any], nodes: Sequence[dict[str, Any]], step: int | str) -> list[dict[str, Any]]:
    """Return the schemas to which a step leads from any of nodes."""
    found: list[Any] = []
    for node in _options(schema, nodes):
        if isinstance(step, int):
            items = node.get("prefixItems", [])
            found.append(items[step] if step < len(items) else node.get("items"))
        elif step in _tags(node):
            found.append({"$ref": _tags(node)[step]})
        else:
            found.append(node.get("properties", {}).get(step, node.get("additionalProperties")))
    return [node if isinstance(node, dict) else {} for node in found if node is not None and node is not False]


def _options(schema: dict[str, Any], nodes: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield schemas with their references and alternatives resolved."""
    for node in nodes:
        if "$ref" in node:
            yield from _options(schema, [schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]])
        yield node
        yield from _options(schema, [*node.get("anyOf", []), *([] if _tags(node) else node.get("oneOf", []))])


def _tags(node: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = node.get("discriminator", {}).get("mapping", {})
    return found


def _properties(schema: dict[str, Any], nodes: Sequence[dict[str, Any]]) -> list[str]:
    return [key for node in _options(schema, nodes) for key in node.get("properties", {})]
