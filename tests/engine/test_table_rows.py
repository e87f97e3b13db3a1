"""Rows as JSON objects and CSV text: codes, values that come back as given, and errors that name the column."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import table_rows
from gen_ray.engine.inference.instances import InstanceError
from gen_ray.engine.inference.table_rows import as_json, as_objects, decoded, parse_csv, parse_objects
from gen_ray.tabular import codec
from gen_ray.tabular.columns import BooleanColumn, CategoryColumn, DatetimeColumn, IntegerColumn, NumberColumn
from tests.tabular_cases import mixed_rows, spec_of

DAYS = (0, 86_400_000_000 * 9000)
SPEC = DataSpec(
    name="people",
    kind="table",
    shape=(6,),
    levels=3,
    columns=(
        NumberColumn(
            name="height", arrow_type="double", counts=(5, 5), means=(1.5, 1.8), starts=(1.0, 1.7),
            examples=((1.4, 1.6), (1.7, 1.9)),
        ),
        IntegerColumn(
            name="age", arrow_type="int16", counts=(5, 5), means=(20, 60), starts=(0, 40), examples=((1, 20), (60,)),
            missing=("", "-1"),
        ),
        CategoryColumn(name="work", arrow_type="string", counts=(6, 3, 1), categories=("shop", "farm"), rare=("sea",)),
        CategoryColumn(name="zone", arrow_type="int64", counts=(6, 3, 1), categories=("7", "8")),
        BooleanColumn(name="owner", arrow_type="bool", counts=(5, 5)),
        DatetimeColumn(
            name="since", arrow_type="timestamp[us, tz=UTC]", counts=(5, 5), means=DAYS, starts=DAYS,
            examples=((DAYS[0],), (DAYS[1],)), format="%d/%m/%Y",
        ),
    ),
    target="work",
)  # fmt: skip
ROW = {"height": 1.75, "age": 39, "work": "shop", "zone": 8, "owner": True, "since": "2000-01-02T03:04:05+00:00"}


def test_an_object_becomes_codes_and_returns_the_given_values() -> None:
    rows = parse_objects([ROW, {"age": 41.0, "work": None}, {}], SPEC, "rows")
    assert rows.codes.tolist() == [[1, 0, 0, 1, 1, 1], [-1, 1, -1, -1, -1, -1], [-1] * 6]
    assert rows.known.sum(1).tolist() == [6, 1, 0] and not rows.unknown
    filled = as_objects(decoded(np.zeros((6, 6), int), np.zeros((6, 6)), SPEC, rows))
    assert filled[0] == filled[1] == ROW
    other = {"height": 1.4, "age": 41, "work": "shop", "zone": 7, "owner": False, "since": "1970-01-01T00:00:00+00:00"}
    assert filled[2] == filled[3] == other and filled[4]["age"] == 1
    json.dumps(filled, allow_nan=False)


def test_an_absent_column_is_not_known_where_a_missing_value_is_a_category() -> None:
    work = CategoryColumn(
        name="work", arrow_type="string", counts=(6, 3, 1, 1), categories=("shop", "farm"), missing_as_category=True
    )
    spec = SPEC.model_copy(update={"columns": (*SPEC.columns[:2], work, *SPEC.columns[3:])})
    rows = parse_objects([{"work": None}, {"age": 1}], spec, "rows")
    assert rows.codes[:, 2].tolist() == [2, -1]
    assert parse_csv("work,age\n,1\n", spec, "csv", most=1).codes[0, 2] == 2
    assert parse_csv("age\n1\n", spec, "csv", most=1).codes[0, 2] == -1


def test_csv_has_the_codes_of_the_objects() -> None:
    text = '\ufeffage;work;since\n39;shop;02/01/2000\n;"sea";\n-1;?;2000-01-02T03:04:05Z\n'
    rows = parse_csv(text, SPEC, "csv", most=3)
    objects = [{"age": 39, "work": "shop", "since": "2000-01-02T00:00:00Z"}, {"work": "sea"}, {"since": ROW["since"]}]
    assert (rows.codes == parse_objects(objects, SPEC, "rows").codes).all() and not rows.unknown
    assert rows.values.column("since").to_pylist()[0] == datetime(2000, 1, 2, tzinfo=UTC)


def test_a_table_of_every_type_survives_json() -> None:
    mixed = mixed_rows(200)
    spec = spec_of(mixed)
    objects = json.loads(json.dumps(as_objects(mixed), allow_nan=False))
    rows = parse_objects(objects, spec, "rows")
    assert rows.values.equals(mixed) and (rows.codes == codec.encode(mixed, spec.columns, "test")).all()
    assert as_objects(decoded(rows.codes, np.full(rows.codes.shape, 0.5), spec, rows)) == objects


def test_a_category_that_the_model_does_not_know_is_other() -> None:
    rows = parse_objects([{"work": "mine", "zone": 9}, {"work": "sea"}, {"work": "mine"}], SPEC, "rows")
    assert rows.codes[:, 2].tolist() == [2, 2, 2] and rows.unknown == {"work": ["mine"], "zone": ["9"]}
    assert as_objects(decoded(rows.codes, np.zeros((3, 6)), SPEC, rows))[0]["work"] == "mine"


def test_extreme_numbers_are_json() -> None:
    values = pa.array([0.1, float("inf"), float("-inf"), float("nan"), None], pa.float32())
    assert as_json(values) == [0.1, "inf", "-inf", None, None]
    assert as_json(pa.array([2**53 + 1])) == [2**53 + 1]
    assert parse_objects([{"height": "inf"}], SPEC, "rows").codes[0, 0] == 1


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"hieght": 1}, "rows.1: has a column 'hieght' that is not known; did you mean 'height'?"),
        ({"height": "tall"}, "rows.1: column 'height' must be a number, or null"),
        ({"height": True}, "rows.1: column 'height' must be a number, or null"),
        ({"age": 1.5}, "rows.1: column 'age' must be a whole number of type int16, or null"),
        ({"age": 40_000}, "column 'age' must be a whole number of type int16"),
        ({"age": 10**400}, "column 'age' must be a whole number of type int16"),
        ({"work": 3}, "column 'work' must be a text, or null"),
        ({"work": ["shop"]}, "column 'work' must be a text, or null"),
        ({"zone": "north"}, "column 'zone' must be a value of type int64"),
        ({"owner": 1}, "column 'owner' must be true or false, or null"),
        ({"since": 2000}, "column 'since' must be a time of the format %d/%m/%Y"),
        ({"since": "yesterday"}, "column 'since' must be a time of the format %d/%m/%Y"),
        (["shop"], "rows.1: must be an object of values by column"),
    ],
)
def test_an_error_names_the_row_the_column_and_the_type(row: Any, fault: str) -> None:
    with pytest.raises(InstanceError) as error:
        parse_objects([{}, row], SPEC, "rows")
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "csv: needs a row of column names"),
        ("age,work\n", "at least one row of values"),
        ("age,work\n1\n", "csv, row 1: has 1 cells; the first row has 2"),
        ("aage,wrok\n1,shop\n", "csv: has none of the model's columns; did you mean 'age'?"),
        ("age,age\n1,2\n", "csv: has the column 'age' twice"),
        ("age,work\n1,shop\nold,farm\n", "csv, row 2: column 'age' must be a whole number"),
        ('age,work\n1,"shop\n', "csv: is not CSV"),
        ("age\n1\n2\n3\n4\n", "csv: has 4 rows; the maximum is 3"),
    ],
)
def test_an_error_of_csv_names_the_row(text: str, fault: str) -> None:
    with pytest.raises(InstanceError) as error:
        parse_csv(text, SPEC, "csv", most=3)
    assert fault in str(error.value)


def test_errors_do_not_repeat_the_input() -> None:
    with pytest.raises(InstanceError) as error:
        parse_objects([{"age": "secret"}], SPEC, "rows")
    assert "secret" not in str(error.value)


def test_every_type_has_a_description() -> None:
    assert [table_rows.expected(column).split()[0] for column in SPEC.columns] == ["a"] * 4 + ["true", "a"]


def test_a_blank_line_of_one_column_is_a_missing_value() -> None:
    rows = parse_csv("\nage\n30\n\n40\n", SPEC, "csv", most=9)
    assert rows.values.column("age").to_pylist() == [30, None, 40]
    assert len(parse_csv("age,work\n30,shop\n\n40,sea\n", SPEC, "csv", most=9)) == 2
