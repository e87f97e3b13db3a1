"""The base class of typed configurations."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from gen_ray.configuration.errors import TRUTH_VALUE, explain
from gen_ray.errors import UserError

LONGEST_SECONDS = 1e7
"""Upper limit of settings in seconds, about four months. Waits of threads have a limit of some centuries."""


class Config(BaseModel):
    """Base of a component's settings: keyword-only and immutable. Unknown keys are errors; names contain units."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_not_a_truth_value(cls, raw: Any) -> Any:
        """Reject true for a number, because Python treats it as 1."""
        for key, value in raw.items() if isinstance(raw, Mapping) else ():
            field = cls.model_fields.get(key) if isinstance(value, bool) else None
            if field and _mentions(field.annotation, int, float) and not _mentions(field.annotation, bool, Any):
                raise PydanticCustomError(
                    TRUTH_VALUE, "must be a number, got {value}", {"key": key, "value": str(value).lower()}
                )
        return raw


C = TypeVar("C", bound=Config)


def _mentions(annotation: Any, *kinds: Any) -> bool:
    """Return whether a type, or a part of it, is one of kinds."""
    return annotation in kinds or any(_mentions(part, *kinds) for part in get_args(annotation))


def named(default: str) -> BeforeValidator:
    """Return a validator that reads ``key: cosine`` as ``key: {name: cosine}``. A mapping gets the default name."""

    def spell_out(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, Mapping) else value

    return BeforeValidator(spell_out)


def validated(model: type[C], raw: Any, *, path: str = "") -> C:
    """Return raw as a model. Raise UserError: one line with the key's path, the error and the nearest key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(explain(model, error.errors(include_url=False), path)) from None
