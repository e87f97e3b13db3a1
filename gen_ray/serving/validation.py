"""One-line messages on faults of a request's body that pydantic reports. They never repeat data of the request."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Fault = Mapping[str, Any]
"""An error of pydantic: type, loc, msg and ctx."""
Limits = Mapping[str, Any]
"""The context of an error: the limits that a value does not satisfy, by name."""


def _at_least(limits: Limits, unit: str) -> str:
    least = limits["min_length"]
    return "must not be empty" if least == 1 else f"must have at least {_counted(least, unit)}"


def _counted(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


REQUIREMENTS: Mapping[str, Callable[[Limits], str]] = {
    "missing": lambda limits: "is required",
    "string_type": lambda limits: "must be a text",
    "int_type": lambda limits: "must be a whole number",
    "float_type": lambda limits: "must be a number",
    "finite_number": lambda limits: "must be a finite number",
    "bool_type": lambda limits: "must be true or false",
    "list_type": lambda limits: "must be a list",
    "dict_type": lambda limits: "must be an object",
    "model_type": lambda limits: "must be an object",
    "model_attributes_type": lambda limits: "must be an object",
    "literal_error": lambda limits: f"must be {limits['expected']}",
    "string_pattern_mismatch": lambda limits: "must be of the form NAME or NAME:option=value",
    "string_too_short": lambda limits: _at_least(limits, "character"),
    "string_too_long": lambda limits: f"must have at most {_counted(limits['max_length'], 'character')}",
    "too_short": lambda limits: _at_least(limits, "item"),
    "too_long": lambda limits: f"must have at most {_counted(limits['max_length'], 'item')}",
    "greater_than_equal": lambda limits: f"must be at least {_number(limits['ge'])}",
    "less_than_equal": lambda limits: f"must be at most {_number(limits['le'])}",
    "value_error": lambda limits: str(limits["error"]),
}
"""What a value must be, by the type of pydantic's error, from the limits in its context."""


def describe(faults: Sequence[Fault]) -> str:
    """Return one line on the first field with a fault, and the number of other fields with one.

    The name of a field is a path of names of the schema and of numbers of items, never of keys of the client.
    """
    by_field = dict[str, list[str]]()
    for fault in faults:
        requirement = REQUIREMENTS.get(fault["type"], lambda limits: "is not valid")
        by_field.setdefault(_field(fault), []).append(requirement(fault.get("ctx", {})))
    field, requirements = next(iter(by_field.items()))
    first, *others = dict.fromkeys(requirements)  # several for a field that may have several types
    problem = ", or ".join([first, *(text.removeprefix("must be ") for text in others)])
    more = f" (and {len(by_field) - 1} more)" if len(by_field) > 1 else ""
    return f"{field or 'the body'}: {problem}{more}"


def _field(fault: Fault) -> str:
    place = fault["loc"][1:]  # the first step is body, path or query
    return ".".join(str(step) for depth, step in enumerate(place) if not depth or isinstance(step, int))
