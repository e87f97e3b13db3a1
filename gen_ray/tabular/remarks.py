"""Remarks for the user on columns of texts that were probably meant to have another type than category."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.errors import short
from gen_ray.tabular.columns import CategoryColumn
from gen_ray.tabular.retained import Retained

NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
FORMATTED_NUMBER = r"^[+-]?[$€£¥]? ?[+-]?([0-9]{1,3}([,.' ][0-9]{3})+|[0-9]+)([.,][0-9]+)? ?[%€$£¥]?$"
"""Numbers with a decimal comma, separators of thousands, a currency or a percent sign."""
TIME = (
    r"^(([0-9]{1,2}|[0-9]{4})[-/. ]([0-9]{1,2}|[A-Za-z]{3,9})[-/. ]([0-9]{4}|[0-9]{2})"
    r"|[A-Za-z]{3,9} [0-9]{1,2},? [0-9]{4})"
    r"([ T,]+[0-9]{1,2}[:.][0-9]{2}.*)?$"
)
NEARLY_ALL = 0.95
"""Share of the values that look like another type above which there is a remark."""
MOSTLY = 0.5
"""Share of the values that are ``other`` above which there is a remark."""
SHOWN = 5


def on_texts(name: str, path: str, first_not_a_number: str, retained: Retained) -> str:
    """Return a line if nearly all texts of a category look like numbers or times, else an empty text.

    path is the key of the column's settings, first_not_a_number a text to name if no retained value is one.
    """
    start = f"column {name!r} is read as a category: "
    known = pc.not_equal(retained.values, "").to_numpy(zero_copy_only=False)  # empty texts do not decide
    numeric = _matching(retained, NUMBER)
    share = _share(retained, numeric, known)
    if share >= NEARLY_ALL:
        others = retained.values.filter(pa.array(~numeric)).to_pylist() or [first_not_a_number]
        by_weight = np.argsort(-retained.weights[~numeric], kind="stable")[:SHOWN]
        shown = [others[i] for i in by_weight] or others
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        listed = ", ".join(short(text) for text in shown) + more
        numbers = f"{_share(retained, numeric, np.ones_like(known)):.2%} of its values are numbers, but not {listed}"
        return f"{start}{numbers}; if these mark missing values, name them in {path}.missing"
    example = short(retained.values[int(np.argmax(np.where(known, retained.weights, 0)))].as_py())
    if _share(retained, _matching(retained, TIME), known) >= NEARLY_ALL:
        return f"{start}its texts, such as {example}, look like times; {path}.format gives a format, e.g. %d/%m/%Y"
    if _share(retained, _matching(retained, FORMATTED_NUMBER), known) >= NEARLY_ALL:
        return f"{start}its texts, such as {example}, look like numbers; write them as 1234.5, without other characters"
    return ""


def on_rare_values(column: CategoryColumn, most: int, least: int) -> str:
    """Return a line if most values of a column are ``other``, else an empty text.

    most and least are the largest number of categories and the smallest number of training rows of a category.
    """
    share = column.counts[-1] / max(1, sum(column.counts))
    if share <= MOSTLY:
        return ""
    kept = len(column.categories)
    reason = (
        f"because only the {most} most frequent ones are categories (data.options.max_categories)"
        if kept == most
        else f"because each of them occurs in fewer than {least} training rows"
    )
    return f"column {column.name!r}: {share:.0%} of its values are the category other, {reason}"


def _matching(retained: Retained, pattern: str) -> np.ndarray:
    return pc.match_substring_regex(retained.values, pattern).to_numpy(zero_copy_only=False)


def _share(retained: Retained, chosen: np.ndarray, known: np.ndarray) -> float:
    """Return the share of rows with chosen (n,) values among those with known (n,) ones."""
    return float(retained.weights[chosen].sum() / max(1, retained.weights[known].sum()))
