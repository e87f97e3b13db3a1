"""The kind of a configuration file, and the search for the file that causes an error."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from gen_ray.configuration.overrides import apply, merge
from gen_ray.configuration.renamed import translated
from gen_ray.configuration.yaml12 import read
from gen_ray.errors import UserError

TRAINING, SWEEP = "a training", "a sweep"
MARKS: Mapping[str, tuple[str, str]] = {
    "space": (SWEEP, "gen-ray sweep takes it"),
    "cron": ("a schedule", "gen-ray schedule list shows it"),
    "applications": ("a Serve application", "serve deploy takes it"),
    "apiVersion": ("a Kubernetes manifest", "kubectl apply takes it"),
    "head_node_type": ("a Ray cluster", "ray up takes it"),
    "provider": ("a Ray cluster", "ray up takes it"),
    "family": (TRAINING, "gen-ray train takes it"),
}
"""Keys that occur in only one kind of file, with this kind and its command."""


def checked(file: Path, expected: str) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raise UserError if the file is not of the expected kind."""
    raw = read(file)
    key = next((key for key in MARKS if key in raw), None)
    if key is not None and MARKS[key][0] != expected:
        kind, command = MARKS[key]
        raise UserError(f"{file}: configures {kind} (it has the key {key!r}), not {expected}: {command}")
    return raw


def checked_saved(file: Path) -> dict[str, Any]:
    """Return the mapping in the config.yaml of a run or an artifact, with the present names of its keys."""
    return translated(checked(file, TRAINING))


def is_overlay(override: str) -> bool:
    """Return whether an override is the name of a YAML file."""
    return override.endswith((".yaml", ".yml")) and "=" not in override


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Change a mapping by an overlay or by ``dotted.key=value``. Raise UserError."""
    if is_overlay(override):
        merge(raw, checked(Path(override), TRAINING))
    else:
        apply(raw, override)


def with_location(
    error: UserError, raw: Mapping[str, Any], file: Path, overrides: Iterable[str], parse: Callable[[Any], object]
) -> UserError:
    """Return an error of a changed configuration with the file that causes it, or unchanged if an override does."""
    state = deepcopy(dict(raw))
    for source in ("", *overrides):
        if source:
            apply_override(state, source)
        try:
            parse(state)
        except UserError as found:
            if str(found) == str(error):
                is_file = not source or is_overlay(source)
                return UserError(f"{source or file}: {error}") if is_file else error
    return error
