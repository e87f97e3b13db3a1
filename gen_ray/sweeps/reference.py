"""The reference of every key of an experiment and of a sweep, as Markdown, made from the typed configuration.

``python -m gen_ray.sweeps.reference`` writes it to the end of configs/README.md; a test compares the two.
"""

import inspect
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gen_ray import families
from gen_ray.configuration.yaml12 import flow
from gen_ray.experiment import Experiment
from gen_ray.family import FamilyConfig
from gen_ray.sweeps.config import SweepConfig

PAGE = Path("configs/README.md")
"""The page, relative to the root of the repository."""
MARK = "<!-- Made by python -m gen_ray.sweeps.reference: do not edit below this line. -->\n"
HEADER = "| key | values | default | meaning |\n| --- | --- | --- | --- |\n"
WORDS = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", Any: "any value", Path: "path"}
Model = type[BaseModel]
Parts = dict[Model, list[str]]
"""The models of mappings, with the keys that hold them."""


def page(text: str) -> str:
    """Return the text of the page with a new reference below its mark."""
    return text.partition(MARK)[0] + MARK + "\n" + reference()


def reference() -> str:
    """Return the sections of the reference: the experiment, each family, their parts, and the sweep."""
    own: Parts = {}
    sections = [_section("Experiment", Experiment)]
    common: Parts = {}
    _collect(Experiment, "", "", common)
    common.pop(FamilyConfig)
    for name in families.names():
        config = families.find(name).Config
        sections.append(_section(f"`family` of `{name}`", config))
        _collect(config, "family", f" of `{name}`", own)
    sections[1:1] = [_part(model, places) for model, places in common.items()]
    sections += [_part(model, places) for model, places in own.items()]
    sweep: Parts = {}
    _collect(SweepConfig, "", "", sweep)
    return "\n".join([*sections, _section("Sweep", SweepConfig), *(_part(*it) for it in sweep.items())])


def _section(title: str, model: Model) -> str:
    return f"### {title}\n\n{_first(model)}\n\n{_table(model)}"


def _part(model: Model, places: list[str]) -> str:
    """Return the section of a mapping below a key, such as a noise schedule, which is selected by its name."""
    name = _name(model)
    title = ", ".join(places) + (f": `{name}`" if name else "")
    rows = _table(model, skip=bool(name))
    return f"### {title}\n\n{_first(model)}" + (f"\n\n{rows}" if rows else " No further keys.\n")


def _first(model: Model) -> str:
    """Return the first paragraph of a model's description."""
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].replace("``", "`").split())


def _collect(model: Model, path: str, owner: str, parts: Parts) -> None:
    """Add the models of a model's keys, with the dotted keys that hold them and the family that has these keys."""
    for key, field in model.model_fields.items():
        for part in _models(field.annotation):
            dotted = f"{path}.{key}".lstrip(".")
            places = parts.setdefault(part, [])
            if (place := f"`{dotted}`{owner}") not in places:
                places.append(place)
            _collect(part, dotted, owner, parts)


def _table(model: Model, *, skip: bool = False) -> str:
    rows = [
        f"| `{key}` | {_values(field)} | {_default(field)} | {_meaning(key, field)} |\n"
        for key, field in model.model_fields.items()
        if not (skip and key == "name")
    ]
    return HEADER + "".join(rows) if rows else ""


def _meaning(key: str, field: FieldInfo) -> str:
    if field.description:
        return field.description.replace("|", "&#124;")
    return "name of the family" if key == "name" else "a mapping with the keys listed below"


def _name(model: Model) -> str:
    field = model.model_fields.get("name")
    names = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    return str(names[0]) if len(names) == 1 else ""


def _models(annotation: Any) -> Iterator[Model]:
    """Yield the models that a type mentions."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _values(field: FieldInfo) -> str:
    kinds, null, rest = _type(field.annotation).partition(", `null`")
    return kinds + rest + _range(field.metadata) + null


def _type(annotation: Any) -> str:
    """Return the values of a type in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return ", ".join(dict.fromkeys(_type(part) for part in parts))
    if origin in (tuple, list):
        inner = [part for part in parts if part is not Ellipsis]
        if len(inner) == len(parts) > 1:
            return f"[{', '.join(map(_type, inner))}]"
        return f"list of {_type(inner[0])}"
    if origin in (dict, Mapping):
        return "mapping"
    if origin is not None:  # Annotated
        return _type(parts[0]) + _range([item for part in parts[1:] for item in getattr(part, "metadata", [])])
    if annotation is type(None):
        return "`null`"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"`{_name(annotation)}`" if _name(annotation) else "mapping"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _range(metadata: list[Any]) -> str:
    """Return the limits of a value in words."""
    limits = {
        name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)
    }
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return "".join(
        f" {signs[name]} {limit if isinstance(limit, int) else format(limit, 'g')}" for name, limit in limits.items()
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory_takes_validated_data:
        return "depends on other keys"
    if field.default_factory is not None:
        return "those of its keys" if list(_models(field.annotation)) else "`GEN_RAY_STORAGE`, else `./gen_ray_runs`"
    value = field.default
    if isinstance(value, BaseModel):
        return f"`{name}`" if (name := _name(type(value))) else "those of its keys"
    if isinstance(value, dict) and set(value) == {"name"}:
        return f"`{value['name']}`"
    return f"`{flow(list(value) if isinstance(value, tuple) else value)}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
