"""Values as the texts of a CSV file, and rows as its lines."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.errors import UserError
from gen_ray.tabular.columns import BaseColumn, DatetimeColumn
from gen_ray.tabular.texts import is_text


def as_texts(values: pa.Array, name: str, column: BaseColumn | None = None) -> pa.Array:
    """Return values as texts that read back as the same values; "" where they are null.

    Times have the format of the column. Raise UserError for values without a text, such as lists and bytes.
    """
    if isinstance(column, DatetimeColumn) and column.format is not None and not is_text(values.type):
        return pc.fill_null(pc.strftime(values, format=column.format), "")
    try:
        texts = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(no_text(name, values.type)) from None
    if pa.types.is_temporal(values.type) and pc.any(pc.starts_with(texts, "<")).as_py():
        raise UserError(no_text(name, values.type))  # Arrow writes: <value out of range: …>
    if pa.types.is_timestamp(values.type):
        texts = pc.replace_substring_regex(texts, pattern=r"\.0+(Z?)$", replacement=r"\1")
        texts = pc.replace_substring(texts, " ", "T", max_replacements=1)  # ISO 8601, as in JSON
    return pc.fill_null(texts, "")


def no_text(name: str, kind: pa.DataType) -> str:
    """Return the message on a column with values that cannot be texts."""
    return f"column {name!r} has values of type {kind} that CSV cannot hold; write .parquet, or remove the column"


def csv_lines(columns: Sequence[pa.Array], delimiter: str, marks: Sequence[pa.Array | None] = ()) -> bytes:
    """Return rows as lines of a CSV file, UTF-8; cells are in quotation marks only where they need them.

    marks are truth values (n,) of each column that say which cells are in quotation marks; null where they are to have
    them as needed. pyarrow's own writer puts all texts into quotation marks.
    """
    masks = marks or [None] * len(columns)
    quoted = [
        _quoted(texts.cast(pa.large_string()), delimiter, mask) for texts, mask in zip(columns, masks, strict=True)
    ]
    if len(quoted) == 1:  # an empty line would not be read as a row
        quoted = [pc.if_else(pc.equal(quoted[0], ""), '""', quoted[0])]
    lines = _joined(_joined(*quoted, delimiter), "", "\n")
    offsets = np.frombuffer(lines.buffers()[1], np.int64)
    return bytes(memoryview(lines.buffers()[2] or b"")[: offsets[len(lines)]]) if len(lines) else b""


def csv_header(names: Sequence[str], delimiter: str) -> bytes:
    """Return the first line of a CSV file."""
    return csv_lines([pa.array([name]) for name in names], delimiter)


def _quoted(texts: pa.Array, delimiter: str, mask: pa.Array | None) -> pa.Array:
    special = pc.match_substring_regex(texts, f'["\r\n{re.escape(delimiter)}]')
    special = special if mask is None else pc.coalesce(mask, special)
    if not pc.any(special).as_py():
        return texts
    doubled = pc.replace_substring(texts, '"', '""')
    return pc.if_else(special, _joined('"', doubled, '"', ""), texts)


def _joined(*parts: pa.Array | str) -> pa.Array:
    """Return texts (n,) joined by the last part."""
    large = (pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts)
    return pc.binary_join_element_wise(*large)
