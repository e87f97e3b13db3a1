"""Types of configuration values: names, texts and counts."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names that may be part of a path: without separators, a leading dot or control characters."""

NAME_RULE = "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"


def _name(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise ValueError(f"must be {NAME_RULE}")
    return text


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain null bytes")
    return text


Text = Annotated[str, AfterValidator(_text)]
"""The name of a file, a folder or a server, without null bytes."""
Name = Annotated[str, AfterValidator(_name)]
"""A name that follows NAME_RULE."""
Count = Annotated[int, Field(ge=1, le=10_000)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
