"""The axes of a search space: the values of a key, the condition under which it is active, and values as texts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from gen_ray.configuration import yaml12
from gen_ray.configuration.base import Config

Point = Mapping[str, Any]
"""A point of a space: the values of the keys that are active at the point."""
Scalar = bool | int | float | str | None
LONGEST_LABEL = 60
"""Characters of the settings of a component that are shown completely."""


class SearchAxis(Config):
    """The values of a key: exactly one of four kinds, and optionally a condition on other keys."""

    choice: list[Any] | None = Field(None, min_length=1, description="list of values")
    uniform: tuple[float, float] | None = Field(None, description="[low, high]")
    loguniform: tuple[float, float] | None = Field(None, description="[low, high], uniform in the logarithm")
    randint: tuple[int, int] | None = Field(None, description="both ends included")
    when: dict[str, Any] = Field(
        {}, description="values of earlier keys for which this key is active; NAME stands for all settings of that name"
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> "SearchAxis":
        kinds = {"choice": self.choice, "uniform": self.uniform, "loguniform": self.loguniform, "randint": self.randint}
        kinds_given = [name for name, value in kinds.items() if value is not None]
        if len(kinds_given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(kinds)}")
        if self.choice is None and self.ends[0] >= self.ends[1]:
            raise ValueError("the lower end must be below the upper one")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError("loguniform needs a lower end above 0")
        return self

    @property
    def ends(self) -> Sequence[Any]:
        """Return all choices, or the two ends of a range."""
        return self.choice or self.uniform or self.loguniform or self.randint or []

    def active(self, point: Point) -> bool:
        """Return whether all keys of ``when`` have one of their values in a point."""
        return all(key in point and self.allows(key, point[key]) for key in self.when)

    def allows(self, key: str, value: Any) -> bool:
        """Return whether a value of a key of ``when`` is one of the listed values, or has one of the listed names."""
        condition = self.when[key]
        names = [value["name"]] if isinstance(value, Mapping) and "name" in value else []
        listed = map(label, condition if isinstance(condition, list) else [condition])
        return not {label(value), *names}.isdisjoint(listed)


def label(value: Any) -> Scalar:
    """Return a value as a scalar: lists and mappings become YAML on one line."""
    return value if isinstance(value, Scalar) else yaml12.flow(value)


def short_label(value: Any) -> str:
    """Return a value as a text; of long settings with a name only the name."""
    text = str(label(value))
    is_long = len(text) > LONGEST_LABEL and isinstance(value, Mapping) and "name" in value
    return f"{value['name']} …" if is_long else text


def words(point: Point) -> str:
    """Return a point as text, with the last parts of its keys, and where these are the same with the one before."""
    last = Counter(key.rsplit(".", 1)[-1] for key in point)
    parts = {key: 1 if last[key.rsplit(".", 1)[-1]] == 1 else 2 for key in point}
    shown = (f"{value:.4g}" if isinstance(value, float) else short_label(value) for value in point.values())
    names = (".".join(key.split(".")[-parts[key] :]) for key in point)
    return ", ".join(f"{name}={value}" for name, value in zip(names, shown, strict=True))
