"""Validation of Kubernetes manifests against the fields in kubernetes_fields.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FIELDS = yaml.safe_load((Path(__file__).parent / "kubernetes_fields.yaml").read_text())
PLAIN = {
    **{name: {"type": name} for name in ("string", "integer", "number", "boolean")},
    "quantity": {"pattern": r"^\d+(\.\d+)?(m|[kMGT]i?)?$", "type": "string"},
    "port": {"type": ["string", "integer"]},
}


def faults(manifest: dict[str, Any]) -> list[str]:
    """Return the errors of a manifest, each with its location."""
    checker = jsonschema.Draft202012Validator({**_schema(manifest["kind"]), "$defs": _definitions()})
    return [f"{fault.json_path}: {fault.message}" for fault in checker.iter_errors(manifest)]


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a document, from the outside in."""
    if isinstance(node, dict):
        yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from mappings(below)


def _definitions() -> dict[str, Any]:
    return {name: _schema(fields) for name, fields in FIELDS.items()}


def _schema(described: Any) -> dict[str, Any]:
    """Return the JSON schema of a type from its entry in kubernetes_fields.yaml."""
    if isinstance(described, list):
        return {"type": "array", "items": _schema(described[0])}
    if isinstance(described, dict) and described.keys() == {"string"}:
        return {"type": "object", "additionalProperties": _schema(described["string"])}
    if isinstance(described, dict):
        known = {name.removesuffix("!"): _schema(below) for name, below in described.items()}
        needed = [name.removesuffix("!") for name in described if name.endswith("!")]
        return {"type": "object", "properties": known, "required": needed, "additionalProperties": False}
    if "|" in described:
        return {"enum": [word.strip() for word in described.split("|") if word.strip()]}
    return PLAIN.get(described) or {"$ref": f"#/$defs/{described}"}
