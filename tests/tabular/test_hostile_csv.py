"""CSV files of any content: every cell arrives, or one line names the row."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_ray.errors import UserError
from gen_ray.tabular.delimited import CsvFile, CsvOptions, RaggedRow, Rows
from gen_ray.tabular.options import parse_delimiter

CELLS = st.text(st.sampled_from("ab\",;\n\r \t'é\u2028"), max_size=6)
TABLES = st.integers(1, 3).flatmap(
    lambda columns: st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=12)
)


def read(path: Path, block_bytes: int | None = None) -> list[list[str]]:
    """Return the cells of all rows."""
    file = CsvFile(path, CsvOptions(delimiter=","), block_bytes)
    parts = list(file.rows())
    assert all(isinstance(part, Rows) for part in parts)
    return [list(row.values()) for part in parts if isinstance(part, Rows) for row in part.cells.to_pylist()]


def text_of(rows: list[list[str]], line_end: str, blank_lines: int = 0) -> str:
    """Return rows as CSV; cells are quoted only where they must be. csv.writer does not quote each line end."""
    lines = [[f"c{i}" for i in range(len(rows[0]))], *rows]
    texts = [",".join(quoted(cell, alone=len(line) == 1) for cell in line) for line in lines]
    return line_end * blank_lines + "".join(text + line_end for text in texts)


def quoted(cell: str, alone: bool) -> str:
    doubled = cell.replace('"', '""')
    return f'"{doubled}"' if set(cell) & set('",\r\n') or (alone and not cell) else cell


def fault(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(CsvFile(path).rows())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    rows=TABLES,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank_lines=st.integers(0, 2),
    ended=st.booleans(),
    block_bytes=st.sampled_from([None, 100, 150]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_every_cell_is_read(tmp_path_factory, rows, line_end, blank_lines, ended, block_bytes, encoding):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    text = text_of(rows, line_end, blank_lines)
    path.write_bytes((text if ended else text.removesuffix(line_end)).encode(encoding))
    assert read(path, block_bytes) == rows


@settings(max_examples=150, deadline=None)
@given(rows=TABLES, place=st.floats(0, 1))
def test_a_cell_that_is_cut_off_is_an_error(tmp_path_factory, rows, place):
    """A file that ends inside quotation marks, as after an interrupted copy, is refused, and not read as less."""
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    text = text_of([*rows, ["end"] * len(rows[0])], "\n")
    cut = text[: text.index("\n") + 1 + int(place * (len(text) - text.index("\n") - 1))]
    if cut.count('"') % 2:
        assert "a quotation mark is not closed; correct the row" in fault(path, cut.encode())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("c,x\n" + "a,1\n" * 300 + '"b,2\n' + "c,3\n" * 300, "rows.csv, row 300: a quotation mark is not closed"),
        ('c,x\na,"1', "rows.csv, row 0: a quotation mark"),
        ('"c,x\na,1\n', "rows.csv, first row or a later one: longer than"),
        ("c,x\n" + "a,1\n" * 9 + "b," + "2" * 9_000_000 + "\n", "row 9 or a later one: longer than 4,194,304 bytes"),
        ("n" * 200_000 + ",x\n1,2\n", "or has a cell of more than 131,072 characters"),
        ("  \n\n", "is empty"),
        ("c,x\na,1\n".encode("utf-16-le"), "NUL characters in the first row); name it"),
        (b"\x1f\x8b\x08\x00\xff", "compressed by gzip; rename it to end in .gz"),
        (b"PK\x03\x04\xff\xfe", "a ZIP archive or a spreadsheet"),
    ],
)
def test_one_line_with_the_row_and_the_remedy(tmp_path, content, expected):
    content = content if isinstance(content, bytes) else content.encode()
    assert expected in fault(tmp_path / "rows.csv", content)


def test_long_cells_of_the_first_rows_are_read(tmp_path):
    """Python's parser, which reads the header, has a limit for cells; rows after such a cell must not be lost."""
    path = tmp_path / "rows.csv"
    path.write_text(f"c,x\n{'a' * 200_000},1\nb,2\n")
    assert [row[1] for row in read(path)] == ["1", "2"]


def test_rows_of_another_length_are_numbered_after_blank_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\n\nc,x\na,1\nb\n\nc,3\nd\n")
    found = list(CsvFile(path).rows())
    assert [part.row for part in found if isinstance(part, RaggedRow)] == [1, 3]
    assert [part.numbers.tolist() for part in found if isinstance(part, Rows)] == [[0, 2]]


@pytest.mark.parametrize("delimiter", [chr(i) for i in range(128)])
def test_every_delimiter_that_is_allowed_separates_cells(tmp_path: Path, delimiter: str) -> None:
    """Space is one of them, and control characters are, which old databases write."""
    try:
        parse_delimiter(delimiter)
    except ValueError:
        assert delimiter in '"\n\r\0\x04\x1a'
        return
    path = tmp_path / "rows.csv"
    path.write_text(f"é{delimiter}ö\nü{delimiter}\n", encoding="utf-8")
    [rows] = CsvFile(path, CsvOptions(delimiter=delimiter)).rows()
    assert isinstance(rows, Rows) and rows.cells.to_pylist() == [{"é": "ü", "ö": ""}]


@pytest.mark.parametrize("encoding", ["base64", "hex", "rot13", "zlib", "latin-0", "a\0b"])
def test_an_encoding_of_other_things_than_texts_is_one_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"encoding.*give one of Python's encodings") as caught:
        CsvFile(path, CsvOptions(encoding=encoding))
    assert "\0" not in str(caught.value)
