"""Cells in quotation marks: found for any file, chunk by chunk, in the rows that pyarrow reads."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_ray.tabular import quotation
from gen_ray.tabular.delimited import CsvFile, Rows
from gen_ray.tabular.quotation import QuotedCells, has_quotation_marks

TEXT = st.text(st.sampled_from('ab",;\n\r é'), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quotation")


def raw(cell: str, quoted: bool) -> tuple[str, bool]:
    """Return a cell as it is in a file, and whether it is in quotation marks."""
    quoted = quoted or any(mark in cell for mark in ",\n\r") or cell.startswith('"')
    return (f'"{cell.replace(chr(34), chr(34) * 2)}"' if quoted else cell), quoted


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.tuples(TEXT, st.booleans()), min_size=3, max_size=3), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    blanks=st.booleans(),
    chunk=st.integers(1, 9),
    last=st.booleans(),
)
def test_marks_are_found_in_the_rows_of_pyarrow(
    folder: Path, rows: list[list[tuple[str, bool]]], end: str, blanks: bool, chunk: int, last: bool
) -> None:
    cells = [[raw(*cell) for cell in row] for row in rows]
    lines = [",".join(text for text, _ in row) for row in [[("a", False), ('"b"', True), ("c", False)], *cells]]
    content = (end * (1 + blanks)).join(lines) + end * last
    file = folder / "rows.csv"
    file.write_bytes(content.encode())
    reader = CsvFile(file)
    if reader.delimiter != ",":
        return
    before, quotation.CHUNK_BYTES = quotation.CHUNK_BYTES, chunk
    try:
        marks = QuotedCells(reader)
        batches = [part.cells for part in reader.rows() if isinstance(part, Rows)]
        found = np.concatenate([marks.take(1) for _ in range(len(rows))])
    finally:
        quotation.CHUNK_BYTES = before
    table = pa.Table.from_batches(batches)
    assert [list(row.values()) for row in table.to_pylist()] == [[cell for cell, _ in row] for row in rows]
    assert found.tolist() == [[quoted for _, quoted in row] for row in cells]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_and_compression(tmp_path: Path, encoding: str) -> None:
    content = '"a",b\n"é",1\nx,"2"\n'.encode(encoding)
    for file, data in ((tmp_path / "rows.csv", content), (tmp_path / "rows.csv.gz", gzip.compress(content))):
        file.write_bytes(data)
        reader = CsvFile(file)
        assert has_quotation_marks(reader)
        assert QuotedCells(reader).take(2).tolist() == [[True, False], [False, True]]


def test_a_column_alone_has_blank_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('a\n\n"b"\n""\nc')
    reader = CsvFile(tmp_path / "rows.csv")
    assert QuotedCells(reader).take(4).flatten().tolist() == [False, True, True, False]
    (tmp_path / "plain.csv").write_text("a,b\n1,2\n")
    assert not has_quotation_marks(CsvFile(tmp_path / "plain.csv"))


def test_rows_are_read_fast(tmp_path: Path) -> None:
    """15 columns: 5,000 rows a second for each core would be 4 seconds; other processes may slow this by ten times."""
    import time

    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([f"c{i}" for i in range(15)])
    writer.writerows([[i, "text", *[0.5] * 13] for i in range(20_000)])
    (tmp_path / "rows.csv").write_text(buffer.getvalue())
    began = time.process_time()
    assert QuotedCells(CsvFile(tmp_path / "rows.csv")).take(20_000).sum() == 20_000
    assert time.process_time() - began < 2
