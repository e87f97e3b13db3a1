"""Small tables in CSV files, and their preparation."""

from pathlib import Path

import numpy as np
import pytest

from gen_ray.configuration.base import validated
from gen_ray.datasets.prepare import BadRows, Prepared, SourceOptions, prepare
from gen_ray.datasets.shards import load_split
from gen_ray.errors import UserError

N = 400
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=N).round(4)


def csv(folder: Path, columns: dict, name="rows.csv", delimiter=",") -> Path:
    path = folder / name
    lines = [delimiter.join(columns)]
    lines += [
        delimiter.join("" if cell is None else str(cell) for cell in row) for row in zip(*columns.values(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make(folder: Path, cells: dict | None = None, *, source="csv:rows.csv", skip=0, **options) -> Prepared:
    if cells is not None:
        csv(folder, cells)
    return prepare(
        source,
        root=folder,
        out=folder / "out",
        options=validated(SourceOptions, options, path="data.options"),
        on_bad_row=BadRows(skip),
    )


def column(prepared: Prepared, name: str):
    [found] = [column for column in prepared.spec.columns if column.name == name]
    return found


def fault(folder: Path, cells: dict | None = None, **options) -> str:
    with pytest.raises(UserError) as caught:
        make(folder, cells, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def codes(prepared: Prepared) -> np.ndarray:
    return np.concatenate([load_split(prepared, split)[0] for split in ("train", "validation", "test")])
