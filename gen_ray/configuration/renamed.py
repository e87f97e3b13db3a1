"""Configuration keys that had another name in earlier versions."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

RENAMED: Mapping[str, str] = {
    "training.accumulate": "training.gradient_accumulation_steps",
    "training.recompute": "training.activation_checkpointing",
}
"""The present name of each earlier key, both dotted, in the same section."""


def translated(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that a run or an artifact has saved, with earlier keys under their present names."""
    raw = deepcopy(dict(saved))
    for earlier, present in RENAMED.items():
        section, key = earlier.split(".")
        settings = raw.get(section)
        if isinstance(settings, dict) and key in settings:
            settings.setdefault(present.split(".")[1], settings.pop(key))
    return raw
