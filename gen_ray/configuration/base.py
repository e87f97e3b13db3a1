"""The base of every typed configuration."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from gen_ray.configuration.errors import TRUTH_VALUE, explain
from gen_ray.errors import UserError

LONGEST_SECONDS = 1e7
"""About four months; clocks of threads take no waits of more than some centuries."""


class Config(BaseModel):
    """A component's own settings: keyword-only, immutable, unknown keys refused, units in the names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_not_a_truth_value(cls, raw: Any) -> Any:
        """Refuse true where a number is expected, which Python takes for 1."""
        for key, value in raw.items() if isinstance(raw, Mapping) else ():
            field = cls.model_fields.get(key) if isinstance(value, bool) else None
            if field and _mentions(field.annotation, int, float) and not _mentions(field.annotation, bool, Any):
                raise PydanticCustomError(
                    TRUTH_VALUE, "must be a number, got {value}", {"key": key, "value": str(value).lower()}
                )
        return raw


C = TypeVar("C", bound=Config)


def _mentions(annotation: Any, *kinds: Any) -> bool:
    """Return whether a type, or one that it is made of, is one of some kinds."""
    return annotation in kinds or any(_mentions(part, *kinds) for part in get_args(annotation))


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
        raise UserError(explain(model, error.errors(include_url=False), path)) from None
