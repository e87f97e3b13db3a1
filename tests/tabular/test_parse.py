"""Rows of CSV and Parquet files as values of given columns, and the reader of CSV files."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_ray.errors import UserError
from gen_ray.tabular.columns import BooleanColumn, CategoryColumn, DatetimeColumn, IntegerColumn, NumberColumn
from gen_ray.tabular.delimited import CsvFile, CsvOptions, RaggedRow, Rows, detect_delimiter
from gen_ray.tabular.parse import column_names, parse_rows


def ordered(cls, name, kind, value=0, **more):
    return cls(name=name, arrow_type=kind, counts=(1,), starts=(value,), examples=((value,),), means=(0.0,), **more)


NUMBER = ordered(NumberColumn, "x", "double")
INTEGER = ordered(IntegerColumn, "i", "int64")
DATE = ordered(DatetimeColumn, "d", "date32[day]")
TIME = ordered(DatetimeColumn, "t", "timestamp[us, tz=UTC]")
BOOLEAN = BooleanColumn(name="b", arrow_type="bool", counts=(1, 1))
CATEGORY = CategoryColumn(name="c", arrow_type="string", counts=(1, 1), categories=("a",))


def written(folder: Path, content: str | bytes, name="rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(path: Path, columns, **options) -> dict[str, list]:
    parts = [part.values for part in parse_rows(path, columns, **options)]
    return pa.concat_tables(parts).to_pydict()


def faults(path: Path, *columns, **options) -> str:
    with pytest.raises(UserError) as caught:
        list(parse_rows(path, columns, **options))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_values_have_the_types_of_the_columns_and_cells_keep_their_texts(tmp_path):
    text = 'x,i,d,t,b,c\n 1.50 ,+7,1901-02-03,1960-01-01T00:30:00+01:00,TRUE, a\n?,,NA,NULL,nan,"None"\n'
    path = written(tmp_path, text)
    [part] = parse_rows(path, [NUMBER, INTEGER, DATE, TIME, BOOLEAN, CATEGORY])
    first = {name: value[0] for name, value in part.values.to_pydict().items()}
    assert [str(value) for value in first.values()] == [
        "1.5",
        "7",
        "1901-02-03",
        "1959-12-31 23:30:00+00:00",
        "True",
        "a",
    ]
    assert all(value[1] is None for value in part.values.to_pydict().values())
    assert part.values.schema.field("t").type == pa.timestamp("us", "UTC")
    assert part.cells.slice(0, 1).to_pylist() == [
        {"x": " 1.50 ", "i": "+7", "d": "1901-02-03", "t": "1960-01-01T00:30:00+01:00", "b": "TRUE", "c": " a"}
    ]


def test_integers_beyond_2_53_stay_exact(tmp_path):
    path = written(tmp_path, f"i\n{2**53 + 1}\n-{2**63}\n{2**63 - 1}\n")
    assert values(path, [INTEGER])["i"] == [2**53 + 1, -(2**63), 2**63 - 1]
    assert "9223372036854775808" in faults(written(tmp_path, f"i\n{2**63}\n"), INTEGER)


def test_own_markers_and_formats(tmp_path):
    column = ordered(NumberColumn, "x", "double", missing=("-999",))
    dates = ordered(DatetimeColumn, "d", "date32[day]", format="%d/%m/%Y")
    path = written(tmp_path, "x,d\n-999,03/02/1901\n2,31/12/2020\n")
    assert str(values(path, [column, dates])["d"][0]) == "1901-02-03"
    assert values(path, [column, dates])["x"] == [None, 2.0]
    assert "''" in faults(written(tmp_path, "x,y\n,1\n"), column)  # the default markers are replaced


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (NUMBER, "abc"),
        (INTEGER, "1.5"),
        (INTEGER, "0x10"),
        (DATE, "03/02/1901"),
        (TIME, "1901-02-03"),
        (BOOLEAN, "yes"),
    ],
)
def test_a_text_that_is_not_a_value_is_named_with_its_row(tmp_path, column, text):
    name = column.name
    good = {"x": "1", "i": "1", "d": "1901-02-03", "t": "1901-02-03T00:00:00Z", "b": "true"}[name]
    message = faults(written(tmp_path, f"{name},z\n{good},1\n,1\n{text},1\n"), column)
    assert f"row 2, column {name!r}: {text!r} is not" in message


def test_parquet_has_the_same_values(tmp_path):
    table = pa.table(
        {
            "x": pa.array([1, None, -999], pa.int32()),
            "c": pa.array(["a ", "?", None], pa.large_string()),
            "i": pa.array([1.0, float("nan"), 3.0]),
            "d": pa.array(["1901-02-03", None, "NA"]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    column = ordered(NumberColumn, "x", "double", missing=("-999",))
    found = values(tmp_path / "rows.parquet", [column, CATEGORY, INTEGER, DATE])
    assert found["x"] == [1.0, None, None]
    assert found["c"] == ["a", None, None]
    assert found["i"] == [1, None, 3]
    assert [str(day) for day in found["d"]] == ["1901-02-03", "None", "None"]
    [part] = parse_rows(tmp_path / "rows.parquet", [CATEGORY])
    assert part.cells.column("c").to_pylist() == ["a ", "?", None]
    pq.write_table(pa.table({"i": [1.5]}), tmp_path / "rows.parquet")
    assert "row 0, column 'i': 1.5 is not a whole number of type int64" in faults(tmp_path / "rows.parquet", INTEGER)


def test_absent_columns(tmp_path):
    path = written(tmp_path, "xx,c\n1,a\n")
    assert "column 'x' and 1 more of the model's columns is missing; did you mean 'xx'" in faults(path, NUMBER, INTEGER)
    assert values(path, [NUMBER, CATEGORY], absent_as_missing=True) == {"x": [None], "c": ["a"]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_detected(tmp_path, delimiter):
    quoted = f'"one{delimiter}two, three; four\nfive"'
    path = written(tmp_path, f"c{delimiter}x\n{quoted}{delimiter}1\na{delimiter}2\n")
    [part] = parse_rows(path, [NUMBER])
    assert part.cells.column("c").to_pylist() == [quoted.strip('"'), "a"]
    assert part.values["x"].to_pylist() == [1.0, 2.0]


def test_the_delimiter_can_be_given(tmp_path):
    assert detect_delimiter("a;b,c;d\n1;2,5;3\n1;2,5;3\n") == ";"
    path = written(tmp_path, "a:b\n1:2\n")
    assert column_names(path) == ["a:b"]
    assert column_names(path, options=CsvOptions(delimiter=":")) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("rows.csv.gz", lambda text: gzip.compress(text.encode())),
        ("rows.csv.bz2", lambda text: bz2.compress(text.encode())),
        ("rows.csv.zst", lambda text: pa.compress(text.encode(), "zstd", asbytes=True)),
        ("rows.csv", lambda text: text.encode("utf-8-sig")),
        ("rows.csv", lambda text: text.encode("utf-16")),
        ("rows.csv", lambda text: text.replace("\n", "\r\n").encode()),
    ],
)
def test_compressions_encodings_and_line_ends(tmp_path, name, encode):
    path = written(tmp_path, encode("c,x\nä,1\n\nb,2"), name)
    [part] = parse_rows(path, [NUMBER])
    assert part.cells.to_pydict() == {"c": ["ä", "b"], "x": ["1", "2"]}


def test_other_encodings_are_named(tmp_path):
    path = written(tmp_path, "c,x\nä,1\n".encode("latin-1"))
    assert "data.options.encoding=latin-1" in faults(path, CATEGORY)
    [part] = parse_rows(path, [NUMBER], options=CsvOptions(encoding="latin-1"))
    assert part.cells.column("c").to_pylist() == ["ä"]
    assert "unknown encoding: latin-0" in faults(path, NUMBER, options=CsvOptions(encoding="latin-0"))


def test_an_encoding_fault_after_the_first_block(tmp_path):
    path = written(tmp_path, b"c,x\n" + b"a,1\n" * 500_000 + b"\xe4,1\n")
    assert "data.options.encoding=latin-1" in faults(path, NUMBER)


@pytest.mark.parametrize("block_bytes", [40, 2**20])
def test_ragged_rows_are_numbered(tmp_path, block_bytes):
    text = 'x,c\n0,a\n1\n2,"a\nb"\n3,a,b\n\n4,a\n' + "".join(f"{i},a\n" for i in range(5, 30)) + "30\n"
    found = list(CsvFile(written(tmp_path, text), CsvOptions(), block_bytes).rows())
    assert [(item.row, item.cells, item.expected) for item in found if isinstance(item, RaggedRow)] == [
        (1, 1, 2),
        (3, 3, 2),
        (30, 1, 2),
    ]
    numbers = np.concatenate([item.numbers for item in found if isinstance(item, Rows)])
    texts = [text for item in found if isinstance(item, Rows) for text in item.cells.column("x").to_pylist()]
    assert numbers.tolist() == [int(text) for text in texts] == [0, 2, *range(4, 30)]
    assert "row 1: 1 cells, where the header has 2" in faults(tmp_path / "rows.csv", NUMBER)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,a,c,b\n1,2,3,4,5\n", "several columns named 'a', 'b'"),
        ('c,x\n"a,1\n' + "b,2\n" * 3_000_000, "a quotation mark is not closed"),
        (b"\x1f\x8b\x08\x00broken", "cannot be read"),
    ],
)
def test_unreadable_files(tmp_path, content, fault):
    name = "rows.csv.gz" if isinstance(content, bytes) else "rows.csv"
    assert fault in faults(written(tmp_path, content, name), NUMBER)


@pytest.mark.parametrize("content", ["c,x", "c,x\n"])
def test_a_header_alone_has_no_rows(tmp_path, content):
    assert list(parse_rows(written(tmp_path, content), [NUMBER])) == []


def test_unnamed_columns_and_one_column(tmp_path):
    assert column_names(written(tmp_path, ",a, b \n0,1,2\n")) == ["column_1", "a", "b"]
    assert values(written(tmp_path, "x\n1\n\n3\n"), [NUMBER])["x"] == [1.0, None, 3.0]


def test_thousands_of_columns(tmp_path):
    names = [f"some_long_name_of_a_column_{i}" for i in range(20_000)]
    path = written(tmp_path, ",".join(names) + "\n" + ",".join(map(str, range(20_000))) + "\n")
    column = ordered(NumberColumn, names[12_345], "double")
    assert values(path, [column]) == {names[12_345]: [12_345.0]}
