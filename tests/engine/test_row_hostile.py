"""Files with cells and names of any text: imputation keeps each known cell, and its output can be read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_ray.engine.inference.rows.blocks import inspect
from gen_ray.engine.inference.rows.impute import ImputeTask
from gen_ray.tabular.columns import MARKERS
from gen_ray.tabular.delimited import CsvFile, Rows
from tests.engine.row_models import output, untrained_model
from tests.tabular.test_hostile_csv import CELLS, text_of

NAMES = {"kind": "kind", "x": 'a "quoted", long\nname', "y": "=", "note": "=note"}
TABLE = pa.table({NAMES["kind"]: ["a", "b", "c"] * 40, NAMES["x"]: [1.5, 2.5, 3.5] * 40, NAMES["y"]: [1, 2, 3] * 40})
MODEL = untrained_model(TABLE)
TEXTS = st.one_of(CELLS, st.sampled_from(["a", " a ", "NA", "=1+1", "\t", "-", "0"]))
NUMBERS = st.sampled_from(["1", " 2", "+3", "1e3", "-0.0", "1e999", "", "NA", "?", "  "])
WHOLE = st.sampled_from(["1", " 2", "+3", "-0", "9223372036854775807", "", "NA", "nan"])


def cells_of(content: bytes, suffix: str, folder: Path) -> list[list[str]]:
    path = folder / f"read{suffix}"
    path.write_bytes(content)
    if suffix == ".parquet":
        return [list(row.values()) for row in pq.read_table(path).to_pylist()]
    parts = [part for part in CsvFile(path).rows() if isinstance(part, Rows)]
    return [list(row.values()) for part in parts for row in part.cells.to_pylist()]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, NUMBERS, WHOLE, TEXTS).map(list), min_size=1, max_size=6))
def test_known_cells_are_kept_and_missing_ones_filled(tmp_path_factory, rows, suffix):
    folder = tmp_path_factory.mktemp("rows")
    header = ",".join('"' + name.replace('"', '""') + '"' for name in NAMES.values())
    text = text_of(rows, "\n")
    (folder / "rows.csv").write_bytes((header + text[text.index("\n") :]).encode())
    source = inspect(folder / "rows.csv", MODEL.spec.columns)
    assert source.names == [name.strip() for name in NAMES.values()]
    task = ImputeTask(
        source=source, suffix=suffix, k=2, fill="median", coverage=0.9, with_completions=False, exact=True, seed=0
    )
    task.check()
    [content] = output(MODEL, task, source)
    found = cells_of(content, suffix, folder)
    assert len(found) == len(rows)
    for given_cells, made in zip(rows, found, strict=True):
        for place, cell in enumerate(given_cells):
            missing = place < 3 and cell.strip() in MARKERS
            assert made[place] not in (None, "", *MARKERS) if missing else suffix != ".csv" or made[place] == cell
        assert made[3] == given_cells[3], "a column that the model does not use"
