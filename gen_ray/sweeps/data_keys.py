"""The searched keys that decide the prepared data: numbers of intervals of a table.

Each value of them has its own prepared data, with other codes of the same rows.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_ray.errors import UserError
from gen_ray.metrics import METRICS, VALIDATION_LOSS, declared
from gen_ray.sweeps.schedulers import NoPruning

if TYPE_CHECKING:
    from gen_ray.sweeps.config import SweepConfig

DATA_KEYS = ("data.options.bins", "data.options.columns.NAME.bins")
"""The keys, as messages show them."""
_DATA_KEY = re.compile(r"data\.options\.(columns\.(?P<column>[^.]+)\.)?bins")


def decides_data(key: str) -> bool:
    """Return whether a key of an experiment is one of DATA_KEYS."""
    return _DATA_KEY.fullmatch(key) is not None


def column_of(key: str) -> str | None:
    """Return the column whose intervals a key of an experiment sets, None for a key that is not of one column."""
    found = _DATA_KEY.fullmatch(key)
    return found["column"] if found else None


def data_part(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a point that decides its data."""
    return {key: value for key, value in point.items() if decides_data(key)}


def check_data_keys(sweep: "SweepConfig") -> None:
    """Raise UserError for a range of a key of DATA_KEYS, and for figures that are not comparable between its values.

    Bits and nats of the codes of other intervals are those of other values. Figures of decoded values are computed on
    real rows that are decoded from the same codes, and coarse rows are easier to match.
    """
    keys = list(data_part(sweep.space))
    for key in keys:
        if sweep.space[key].choice is None:
            raise UserError(
                f"space.{key}: needs a choice, because the data of each value are prepared before all trials"
            )
    if not keys:
        return
    if not isinstance(sweep.scheduler, NoPruning):
        raise UserError(
            f"scheduler.name={sweep.scheduler.name}: compares trials by {VALIDATION_LOSS.name}, which is of other "
            f"codes for each value of {keys[0]}; use none"
        )
    if not declared(sweep.metric).in_any_coding:
        usable = " or ".join(metric.name for metric in METRICS if metric.objective and metric.in_any_coding)
        raise UserError(
            f"metric: {sweep.metric} is of other codes, or of values decoded from them, for each value of {keys[0]}; "
            f"use {usable}"
        )
