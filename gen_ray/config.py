"""The base of every typed configuration, and how a mistake in one is told to its author."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from gen_ray.errors import UserError, nearest


class Config(BaseModel):
    """A component's own settings: keyword-only, immutable, unknown keys refused, units in the names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


C = TypeVar("C", bound=Config)


def named(default: str) -> BeforeValidator:
    """Let ``key: cosine`` stand for ``key: {name: cosine}``, and a mapping without a name mean the default."""

    def spell_out(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, Mapping) else value

    return BeforeValidator(spell_out)


def validated(model: type[C], raw: Any, *, path: str = "") -> C:
    """Return raw as a model. Raise UserError: one line with the key's path, the fault and the nearest key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(_explain(model, faults[0], path) + more) from None


def _explain(model: type[Config], fault: ErrorDetails, path: str) -> str:
    *parents, last = _spoken(model, fault["loc"]) or [""]
    key = ".".join(str(step) for step in [path, *parents, last] if step != "")
    if fault["type"] == "extra_forbidden":
        owner = _owner(model, fault["loc"][:-1])
        where = ".".join(str(step) for step in [path, *parents] if step != "")
        return f"{key}: {where or 'the configuration'} has no such key; {nearest(str(last), owner)}"
    if fault["type"] == "missing":
        return f"{key}: is required"
    given = fault["input"]
    shown = "" if isinstance(given, Mapping | list | BaseModel) else f", got {given!r}"
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}{shown}"


def _spoken(model: type[Config], loc: tuple[int | str, ...]) -> list[int | str]:
    """Drop the tags that a tagged union puts into a location: the user never wrote them."""
    spoken, known = [], True
    for index, step in enumerate(loc):
        known = isinstance(step, int) or step in _owner(model, loc[:index]) or index == len(loc) - 1
        if known:
            spoken.append(step)
    return spoken


def _owner(model: type[Config], loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the model that a location leads to."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for step in loc:
        node = _step(schema, node, step)
    return list(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref") or next((o["$ref"] for o in node.get("anyOf", []) if "$ref" in o), None)
    return schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else node


def _step(schema: dict[str, Any], node: dict[str, Any], step: int | str) -> dict[str, Any]:
    node = _resolve(schema, node)
    tags = node.get("discriminator", {}).get("mapping", {})
    if step in tags:
        return {"$ref": tags[step]}
    return node.get("properties", {}).get(step, {})
