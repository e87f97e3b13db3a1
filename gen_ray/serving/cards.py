"""Model cards as JSON: the public description of a served model."""

import json
import math
from dataclasses import asdict
from typing import Any

from gen_ray.serving.service import ModelCard


def card_json(card: ModelCard) -> dict[str, Any]:
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
    whole = {**facts, "data": data, "verbs": list(card.verbs), "curve": [asdict(point) for point in card.curve]}
    sent: dict[str, Any] = _finite(whole)
    return sent


def as_json(card: ModelCard) -> str:
    """Return a card as JSON text. Raise TypeError or ValueError if a value cannot be serialised."""
    return json.dumps(card_json(card), allow_nan=False)


def unavailable_json(name: str) -> dict[str, Any]:
    """Return the list entry of a model that does not respond."""
    return {"id": name, "ready": False, "trouble": "the model does not answer"}


def _finite(value: Any) -> Any:
    """Return a value with NaN and infinity replaced by None, because JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
