"""YAML for configurations: the core schema of version 1.2, in which ``no`` is text, 010 is ten and 1:30 is text.

PyYAML implements YAML 1.1, which silently reads such values as other types.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yamlcore import CoreLoader

from gen_ray.errors import UserError

OLD, NEW = yaml.SafeDumper.yaml_implicit_resolvers, CoreLoader.yaml_implicit_resolvers
"""Resolvers of YAML 1.1 and 1.2 by the first character of a plain text."""
PLAIN = re.compile(r"[-+.0-9A-Za-z]+")
"""Pattern of the characters of numbers, true, false and null."""

MAX_BITS = 1024
"""Maximum size of an integer, about the range of floating point. Python cannot print very long integers."""


class _Loader(CoreLoader):
    """A CoreLoader that rejects aliases and repeated keys, which small configurations do not need."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
            if isinstance(found, int) and found.bit_length() > MAX_BITS:
                raise ValueError
            if isinstance(found, str):
                found.encode()  # "\\udcff" is not text: neither a file nor a database can hold it
            return found
        except (ValueError, LookupError) as error:  # !!float x, !!bool x, !!int '', an integer of 5,000 digits
            kind = node.tag.rpartition(":")[2]
            shown = f"{str(node.value)[:40]!r} cannot be read as {kind}"
            raise yaml.constructor.ConstructorError(None, None, shown, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = {str(key) for key in keys if keys.count(key) > 1}
            if twice:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {twice.pop()!r} occurs twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text which YAML 1.1 or 1.2 would read as a number or another type."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own kind of table
        first: [*OLD.get(first, []), *NEW.get(first, [])] for first in {**OLD, **NEW}
    }


def read(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raise UserError with file and line."""
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a safe loader
    except FileNotFoundError as error:
        searched = (
            f" below {Path.cwd()}; run the command where the path starts (a clone of gen_ray), or give the full path"
        )
        raise UserError(f"{file}: {error.strerror}{'' if file.is_absolute() else searched}") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text") from None
    except ValueError:  # a null byte in the name
        raise UserError(f"{str(file)!r}: is not the name of a file") from None
    except RecursionError:
        raise UserError(f"{file}: is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{file}: holds no settings (a mapping such as 'name: …' is expected)")
    return raw


def parsed(text: str) -> Any:
    """Return the value of a text that ``dump`` wrote."""
    return yaml.load(text, _Loader)  # noqa: S506  a safe loader


def dump(value: Any) -> str:
    """Return a value as YAML, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text


def flow(value: Any) -> str:
    """Return a value as YAML on one line, which may also be a part of a list or a mapping on one line."""
    text: str = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, width=10**6)
    return text.strip()[1:-1]


def quoted(text: str) -> str:
    """Return a text as a YAML string in double quotes, in which no part has a special meaning."""
    found: str = yaml.dump(text, Dumper=_Dumper, default_style='"', width=10**6)
    return found.strip()


def value(text: str) -> Any:
    """Return the value of a word of the command line.

    Numbers, true, false and null are read as YAML, and so is a list, a mapping or a quoted text that is the whole word.
    Everything else is text, in which ``#``, ``: ``, ``=`` and ``*`` have no special meaning.
    """
    stripped = text.strip().removesuffix("\n...")
    if stripped[:1] in ("[", "{", '"', "'"):
        parsed = _parsed_whole(stripped)
        return text if parsed is None else parsed
    if not stripped or stripped.lower() == "null":
        return None
    number = _parsed_whole(stripped) if PLAIN.fullmatch(stripped) else None
    return number if isinstance(number, bool | int | float) else text.removesuffix("\n...\n")


def _parsed_whole(text: str) -> Any:
    """Return the YAML value of a text, or None if the value is not the whole text."""
    try:
        node = yaml.compose(text, _Loader)
        return yaml.load(text, _Loader) if node and node.end_mark.index == len(text) else None  # noqa: S506
    except (yaml.YAMLError, RecursionError):
        return None
