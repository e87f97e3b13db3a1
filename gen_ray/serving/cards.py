"""Cards as JSON: what a client may know of a model before it asks it for anything."""

from dataclasses import asdict
from typing import Any

from gen_ray.serving.desk import Card


def shown(card: Card) -> dict[str, Any]:
    """Return a card as JSON."""
    facts = {name: value for name, value in vars(card).items() if name not in ("spec", "curve")}
    spec = card.spec
    data = {
        "name": spec.name,
        "kind": spec.kind,
        "shape": list(spec.shape),
        "levels": spec.levels,
        "alphabet": spec.alphabet,
    }
    return {**facts, "data": data, "verbs": list(card.verbs), "curve": [asdict(point) for point in card.curve]}


def silent(name: str) -> dict[str, Any]:
    """Return what is listed of a model that does not say what it is."""
    return {"id": name, "ready": False, "trouble": "the model does not answer"}
