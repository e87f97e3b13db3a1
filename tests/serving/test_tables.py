"""Models of tables: rows as JSON objects and CSV, completions with statistics, scores of cells, conditions, errors."""

import asyncio
import csv
import io
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from httpx2 import Response
from starlette.testclient import TestClient

from gen_ray.client import Client, ClientPreview, ClientRows
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows import chains
from gen_ray.engine.inference.rows.blocks import RowRange
from gen_ray.engine.inference.rows.conditions import parse_conditions
from gen_ray.engine.inference.rows.sample import SampleTask, describe, plan
from gen_ray.engine.inference.score import score
from gen_ray.engine.inference.table_rows import parse_objects
from gen_ray.experiment import parse
from gen_ray.serving import tables
from gen_ray.serving.api import build
from gen_ray.serving.local_service import LocalModelService
from gen_ray.serving.settings import ApiSettings
from gen_ray.serving.table_jobs import exact_statistics
from gen_ray.tracking.sources import FolderSource
from tests import tabular_joint
from tests.serving.loopback import listening

CPU = torch.device("cpu")
SPEC = tabular_joint.spec()
ROWS = [
    {"number": 9, "truth": None, "letter": "a"},
    {"letter": "z"},
    {},
    {"number": 0, "truth": True, "letter": "b"},
]


def table_model(name: str, spec: DataSpec = SPEC) -> Model:
    net = {"name": "columns", "width": 16, "depth": 1}
    vae = {"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": [16]}}
    experiment = parse(
        {
            "name": "joint",
            "family": vae if name == "vae" else {"name": "discrete", "kernel": name, "net": net},
            "training": {"precision": "float32"},
            "evaluation": {"effort": 6},
        }
    )
    family = experiment.model(spec)
    torch.manual_seed(0)
    made = family.build_net().eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    meta = artifact.describe(spec, "f" * 64, run_id="joint-run", steps=7)
    return Model(experiment=experiment, family=family, net=made, meta=meta)


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: table_model(name) for name in ("random_order", "uniform", "vae")}


@pytest.fixture(scope="module")
def services(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home, made = tmp_path_factory.mktemp("tables"), {}
    for name, model in models.items():
        artifact.write(home / name, model)
        made[name] = LocalModelService(name, FolderSource(home / name), device=CPU)
        asyncio.run(made[name].open())
    yield made
    for service in made.values():
        asyncio.run(service.close())


@pytest.fixture(scope="module")
def http(services: dict[str, Any]) -> Iterator[TestClient]:
    with TestClient(build(services, ApiSettings()), base_url="http://localhost:8000") as client:
        yield client


def ask(http: TestClient, verb: str, model: str = "random_order", **fields: Any) -> Response:
    return http.post(f"/v1/models/{model}/{verb}", json=fields)


def answer(http: TestClient, verb: str, model: str = "random_order", **fields: Any) -> dict[str, Any]:
    response = ask(http, verb, model, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def refused(http: TestClient, verb: str, model: str = "random_order", **fields: Any) -> str:
    response = ask(http, verb, model, **fields)
    assert response.status_code == 422, response.text
    return response.json()["message"]


def codes(rows: list[dict[str, Any]]) -> np.ndarray:
    return parse_objects(rows, SPEC, "rows").codes


def test_the_model_lists_its_columns(http: TestClient) -> None:
    card = http.get("/v1/models/random_order").json()
    number, truth, letter = card["data"]["columns"]
    assert (number["type"], number["value_type"], number["range"]) == ("integer", "int64", [0, 9])
    assert (truth["type"], letter["type"], letter["categories"]) == ("boolean", "category", ["a", "b"])
    assert number["missing_allowed"] and "?" in number["missing_texts"] and card["data"]["target"] is None
    p = tabular_joint.marginal(1).numpy()
    assert truth["typical_bits"] == pytest.approx(-(p * np.log2(p)).sum(), abs=0.01)
    assert card["exact_conditions"] and not http.get("/v1/models/uniform").json()["exact_conditions"]


def test_rows_with_different_missing_values_are_completed_as_offline(
    http: TestClient, models: dict[str, Model]
) -> None:
    result = answer(http, "impute", rows=ROWS, n=3, seed=5)
    assert len(result["samples"]) == 12
    for i, row in enumerate(result["samples"]):
        assert set(row) == {"number", "truth", "letter"} and None not in row.values()
        assert {name: row[name] for name, value in ROWS[i // 3].items() if value is not None}.items() <= row.items()
    assert result["samples"][9] == result["samples"][10] == ROWS[3]
    model, given = models["random_order"], np.repeat(codes(ROWS), 3, axis=0)
    chain = model.family.impute(result["sampler"], result["steps"])
    drawn = chains.draw(model, chain, np.arange(12), 5, CPU, given)
    assert result["samples"] == tables.sampled_objects(drawn, 5, SPEC, None) or all(
        (codes([row]) == drawn[i]).all() for i, row in enumerate(result["samples"])
    )
    assert result["notes"] == {"statistics": "exact marginals", "treated_as_other": {"letter": ["z"]}}


def test_statistics_of_missing_cells_are_those_of_the_known_joint() -> None:
    experiment = table_model("random_order").experiment
    model = Model(experiment=experiment, family=experiment.model(SPEC), net=tabular_joint.PerfectNet(), meta={})
    found = exact_statistics(model, codes(ROWS), CPU)
    assert [sorted(row) for row in found] == [["truth"], ["number", "truth"], ["letter", "number", "truth"], []]
    for row, cells in zip(codes(ROWS), found, strict=True):
        p = (tabular_joint.agrees(torch.from_numpy(row)[None])[0] * tabular_joint.P).numpy()
        p /= p.sum()
        joint = tabular_joint.ROWS.numpy()
        for d, name in enumerate(("number", "truth", "letter")):
            marginal = np.array([p[joint[:, d] == code].sum() for code in range(tabular_joint.CARDINALITIES[d])])
            if name == "number" and name in cells:
                mean = round(float(marginal @ [0.0, 1.0, 3.0, 7.0]))
                assert cells[name]["mean"] == mean
                assert cells[name]["low"] <= cells[name]["median"] <= cells[name]["high"]
            elif name in cells:
                assert cells[name]["probability"] == pytest.approx(marginal.max())
                assert set(cells[name]) == {"mode", "probability"}


def test_statistics_come_from_completions_where_the_model_has_no_marginals(http: TestClient) -> None:
    few = answer(http, "impute", "uniform", rows=[{"truth": True}], n=4, seed=1, steps=4)
    assert set(few["imputed"][0]) == {"number", "letter"} and "low" not in few["imputed"][0]["number"]
    assert few["notes"]["statistics"] == "4 completions; intervals need n of at least 19"
    many = answer(http, "impute", "uniform", rows=[{"truth": True}], n=40, seed=1, steps=4)
    letters = [row["letter"] for row in many["samples"]]
    assert many["imputed"][0]["letter"]["probability"] * 40 >= max(letters.count(letter) for letter in ("a", "b"))
    cell = many["imputed"][0]["number"]
    numbers = sorted(row["number"] for row in many["samples"])
    assert numbers[0] <= cell["low"] <= cell["median"] <= cell["high"] <= numbers[-1]


@pytest.mark.parametrize("model", ["random_order", "uniform"])
def test_a_row_depends_on_the_seed_and_its_number_only(http: TestClient, model: str) -> None:
    fields = {"rows": [{"letter": "a"}], "seed": 3, "steps": 3, "deterministic": True}
    alone = answer(http, "impute", model, n=4, **fields)["samples"]
    assert answer(http, "impute", model, n=2, **fields)["samples"] == alone[:2]
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(answer, http, "impute", model, rows=ROWS, n=5, seed=i) for i in range(3)]
        together = threads.submit(answer, http, "impute", model, n=4, **fields).result()["samples"]
        assert all(len(other.result()["samples"]) == 20 for other in others)
    assert together == alone


def test_conditions_are_values_of_all_rows(http: TestClient) -> None:
    result = answer(http, "sample", n=20, seed=2, where={"number": 3, "letter": "x"})
    assert {(row["number"], row["letter"]) for row in result["samples"]} == {(3, "x")}
    assert {row["truth"] for row in result["samples"]} == {True, False}


CONDITIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"number": "1..4", "letter": "a|x"}, ["number=1..4", "letter=a|x"]),
    ({"number": "2..", "truth": True}, ["number=2..", "truth=true"]),
    ({"letter": "b"}, ["letter=b"]),
    ({"number": "3"}, ["number=3"]),
]


@pytest.mark.parametrize(
    ("name", "where", "texts"),
    [
        *((name, *conditions) for name in ("random_order", "uniform") for conditions in CONDITIONS),
        ("vae", {"number": "0..4"}, ["number=0..4"]),
    ],
)
def test_rows_under_conditions_are_those_of_the_command(
    http: TestClient, models: dict[str, Model], name: str, where: dict[str, Any], texts: list[str]
) -> None:
    model, steps = models[name], 4 if name == "uniform" else None
    result = answer(http, "sample", name, n=12, seed=4, where=where, steps=steps, deadline_seconds=300)
    task = SampleTask(suffix=".parquet", seed=4, steps=steps, conditions=parse_conditions(texts, SPEC))
    task = plan(task, model, CPU)
    file = task.run(model, CPU, RowRange(0, 0, 12)).files["rows"].content
    expected = pq.read_table(pa.BufferReader(file)).to_pylist()
    agree = sum(row == one for row, one in zip(result["samples"], expected, strict=True))
    assert agree >= 11, "batches of other sizes may round differently"
    exact_values = name == "random_order" and not task.conditions.allowed
    assert exact_values or result["notes"]["where"] == describe(task, model)
    assert exact_values or (result["notes"]["candidates"] >= 12 and result["nfe"] == task.chain(model).nfe)
    low, _, high = where.get("number", "0..").partition("..")
    for row in result["samples"]:
        assert int(low) <= row["number"] <= int(high or {"2": 9, "0": 9}.get(low, low))
        assert row["letter"] in where.get("letter", "a|b|x|y").split("|")
        assert row["truth"] == where.get("truth", row["truth"])


def test_rows_under_conditions_in_other_formats(http: TestClient) -> None:
    fields = {"n": 5, "seed": 3, "where": {"number": "2..4"}}
    rows = answer(http, "sample", **fields)["samples"]
    lines = list(csv.DictReader(io.StringIO(ask(http, "sample", format="csv", **fields).text)))
    assert [int(line["number"]) for line in lines] == [row["number"] for row in rows]
    text = http.post("/v1/models/random_order/sample", json={**fields, "stream": True}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert len(events) == 1 and events[0]["samples"] == rows, "only the result, without previews"
    schema = http.get("/openapi.json").json()["components"]["schemas"]["SampleBody"]["properties"]["where"]
    assert "LOW..HIGH" in json.dumps(schema) and "VALUE|VALUE" in json.dumps(schema)


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ({"nmber": 3}, "has a column that is not known; did you mean 'number'?"),
        ({"letter": "secret"}, "column 'letter' does not have this value"),
        ({"letter": "a|secret"}, "column 'letter' does not have this value"),
        ({"number": "secret"}, "column 'number' must be a whole number of type int64"),
        ({"number": "20..30"}, "no training value of 'number' is in this range; its values are between 0 and 9"),
        ({"number": ".."}, "the range has neither a lower nor an upper end"),
        ({"number": None}, "column 'number' must be a whole number of type int64, or a text LOW..HIGH or A|B"),
        ({"truth": [True]}, "column 'truth' must be true or false, or a text LOW..HIGH or A|B"),
        ({"number": "0..9"} | {"letter": 1}, "column 'letter' must be a text"),
    ],
)
def test_a_condition_that_cannot_be_satisfied_is_one_line(http: TestClient, where: dict[str, Any], named: str) -> None:
    message = refused(http, "sample", where=where)
    assert named in message and message.startswith("where: ") and "secret" not in message


def test_conditions_that_few_rows_satisfy_are_refused(services: dict[str, Any], http: TestClient) -> None:
    loaded = services["uniform"].current
    limits = replace(loaded.limits, work=loaded.model.family.chain("ancestral", 4).nfe * 3 * 40)
    services["uniform"]._current = replace(loaded, limits=limits)
    try:
        message = refused(http, "sample", "uniform", n=40, seed=1, steps=4, where={"number": "1..1", "letter": "x|y"})
    finally:
        services["uniform"]._current = loaded
    assert "of the rows satisfy this, too few to find them; use wider conditions" in message


def test_scores_have_bits_of_rows_and_cells(http: TestClient) -> None:
    result = answer(http, "score", rows=ROWS, seed=1)
    assert result["notes"]["kind"].endswith("-partial") and len(result["bits"]) == 4 and result["bits"][2] == 0
    for row, bits, cells in zip(ROWS, result["bits"], result["cells"], strict=True):
        known = {name for name, value in row.items() if value is not None}
        assert {name for name, value in cells.items() if value is not None} == known
        assert (bits > 0) == bool(known) and all(cells[name] > 0 for name in known)
    assert [3 * bits for bits in result["bits_per_dim"]] == pytest.approx(result["bits"])


def test_the_bits_of_a_cell_are_those_given_the_other_known_cells() -> None:
    experiment = table_model("random_order").experiment
    model = Model(experiment=experiment, family=experiment.model(SPEC), net=tabular_joint.PerfectNet(), meta={})
    given = codes(ROWS)
    found = score(model, torch.from_numpy(given), effort=1, repeats=2, device=CPU).cells
    assert found is not None and found.shape == given.shape
    for (i, d), code in np.ndenumerate(given):
        others = given[i].copy()
        others[d] = -1
        both, rest = (float(tabular_joint.log_p(torch.from_numpy(x)[None])) for x in (given[i], others))
        assert float(found[i, d]) == pytest.approx((rest - both) / math.log(2) if code >= 0 else 0.0, abs=1e-6)


def test_a_latent_space_has_rows_too(http: TestClient) -> None:
    rows = [{"number": 1, "letter": "z"}]
    assert np.shape(answer(http, "encode", "vae", rows=rows)["mu"]) == (1, 2)
    [row] = answer(http, "reconstruct", "vae", rows=rows)["samples"]
    assert set(row) == {"number", "truth", "letter"} and row["letter"] in {"a", "b", "x", "y"}, "not the given values"
    scored = answer(http, "score", "vae", rows=rows)
    assert len(scored["bits"]) == 1 and "cells" not in scored
    assert answer(http, "impute", "vae", rows=rows, n=2)["samples"][1]["letter"] == "z"


def test_csv_goes_in_and_out(http: TestClient) -> None:
    text = "letter,number\na,9\n,\nb,0\n"
    rows = [{"letter": "a", "number": 9}, {}, {"letter": "b", "number": 0}]
    fields = {"n": 2, "seed": 4, "deterministic": True}  # statistics of JSON may share the batch
    by_csv, by_rows = (answer(http, "impute", **fields, **given) for given in ({"csv": text}, {"rows": rows}))
    assert by_csv["samples"] == by_rows["samples"] and by_csv["imputed"] == by_rows["imputed"]
    response = ask(http, "impute", **fields, csv=text, format="csv")
    assert response.headers["content-type"].startswith("text/csv") and response.headers["x-genray-seed"] == "4"
    listed = list(csv.DictReader(io.StringIO(response.text)))
    assert listed == [{name: str(value).lower() if value in (True, False) and name == "truth" else str(value)
                       for name, value in row.items()} for row in by_rows["samples"]]  # fmt: skip
    scored = ask(http, "score", csv=text, format="csv", seed=4)
    lines = list(csv.DictReader(io.StringIO(scored.text)))
    assert list(lines[0]) == ["bits", "number_bits", "truth_bits", "letter_bits"]
    assert [line["truth_bits"] for line in lines] == [""] * 3 and lines[1]["number_bits"] == ""
    again = ask(http, "sample", n=3, seed=4, format="npz")
    assert np.load(io.BytesIO(again.content))["samples"].shape == (3, 3)


def test_further_columns_of_csv_are_passed_through(http: TestClient) -> None:
    """The response has the cells of the request byte for byte, its order of columns and its delimiter."""
    text = 'id;number;"my; note";letter;\n007;03;"a ""b""";;x\n1.50;;;a;\n'
    fields = {"n": 2, "seed": 4, "deterministic": True}
    response = ask(http, "impute", csv=text, format="csv", **fields)
    assert response.status_code == 200, response.text
    header, *lines = csv.reader(io.StringIO(response.text), delimiter=";")
    assert header == ["id", "number", "my; note", "letter", "column_5", "truth"]
    assert [line[0] for line in lines] == ["007", "007", "1.50", "1.50"]
    assert [line[2] for line in lines] == ['a "b"'] * 2 + [""] * 2 and [line[4] for line in lines] == ["x", "x", "", ""]
    assert [line[1] for line in lines[:2]] == ["03"] * 2 and [line[3] for line in lines[2:]] == ["a"] * 2
    assert all(cell for line in lines for cell in (line[1], line[3], line[5]))
    known = answer(http, "impute", rows=[{"number": 3}, {"letter": "a"}], **fields)["samples"]
    assert [(int(line[1]), line[3], line[5]) for line in lines] == [
        (row["number"], row["letter"], str(row["truth"]).lower()) for row in known
    ]
    assert json.loads(response.headers["x-genray-notes"])["unused_columns"] == "id, my; note, column_5"
    scored = list(csv.DictReader(io.StringIO(ask(http, "score", csv=text, format="csv").text), delimiter=";"))
    assert list(scored[0])[:4] == ["id", "my; note", "column_5", "bits"] and scored[1]["id"] == "1.50"
    assert answer(http, "score", csv=text)["notes"]["unused_columns"] == "id, my; note, column_5"
    [made] = csv.DictReader(io.StringIO(ask(http, "reconstruct", "vae", csv="id,number\n7,3\n", format="csv").text))
    assert made["id"] == "7" and set(made) == {"id", "number", "truth", "letter"}


def test_the_notes_of_many_columns_fit_into_a_header() -> None:
    unknown = {f"column {i}": ["é" * 64] * 5 for i in range(3000)}
    notes = tables.notes_for_header({"treated_as_other": unknown, "kind": "exact"})
    assert len(json.dumps(notes)) < 4096 and notes["kind"] == "exact"
    assert notes["treated_as_other"] == {"column 0": unknown["column 0"]} and notes["columns_left_out"] == 2999
    few = {"treated_as_other": {"letter": ["z"]}}
    assert tables.notes_for_header(few) == few and tables.notes_for_header({}) == {}


def test_a_stream_shows_cells_as_they_are_decided(http: TestClient) -> None:
    body = {"n": 2, "seed": 1, "stream": True, "previews": 3, "where": {"letter": "a"}}
    text = http.post("/v1/models/random_order/sample", json=body).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    *previews, result = events
    assert previews and all(row["letter"] == "a" for preview in previews for row in preview["samples"])
    for preview in previews:
        for shown, final in zip(preview["samples"], result["samples"], strict=True):
            assert {name: value for name, value in shown.items() if value is not None}.items() <= final.items()
    assert any(value is None for preview in previews for row in preview["samples"] for value in row.values())


@pytest.mark.parametrize(
    ("verb", "fields", "named"),
    [
        ("impute", {"rows": [{"nubmer": 1}]}, "rows: has a column 'nubmer' that is not known; did you mean 'number'?"),
        ("impute", {"rows": [{}, {"number": "many"}]}, "rows.1: column 'number' must be a whole number"),
        ("score", {"rows": [{"truth": 1}]}, "rows: column 'truth' must be true or false, or null"),
        ("score", {"rows": [3]}, "rows: must be an object"),
        ("impute", {"rows": [ROWS[3]]}, "rows: nothing is missing"),
        ("impute", {"csv": "number,truth,letter\n1,true,a"}, "csv: nothing is missing"),
        ("impute", {"rows": [{}], "csv": "number\n1"}, "exactly one of image, x, text, rows, csv"),
        ("impute", {"rows": [{}], "mask": [[1]]}, "give a mask with image or x"),
        ("impute", {"x": [1, 2, 3], "mask": [1, 0, 0]}, "x: the model's data are rows of a table; send rows or csv"),
        ("score", {"images": ["QUFB"]}, "send rows or csv"),
        ("score", {"csv": "number\n1\n2,3"}, "csv, row 2: has 2 cells"),
        ("impute", {"csv": "nubmer,x\nmany,"}, "csv: has none of the model's columns; did you mean 'number'?"),
        ("impute", {"csv": "number,number\n1,2"}, "csv: has the column 'number' twice"),
        (
            "impute",
            {"csv": "number," + ",".join(f"c{i}" for i in range(300)) + "\n" + "," * 300},
            "csv: has 300 columns that the model does not use; the maximum is 256",
        ),
        ("score", {"csv": "number,truth_bits\n1,2", "format": "csv"}, "csv: has a column 'truth_bits' already; rename"),
        ("sample", {"format": "png"}, "ask for json, csv or npz"),
        ("sample", {"where": {}}, "where"),
        ("impute", {"rows": [{}] * 100, "n": 100}, "n: 10,000 samples in all; the maximum is 256"),
        ("impute", {"rows": [{"letter": "z" * 400_000}], "n": 200}, "n: the response would repeat values of 400,"),
    ],
)
def test_bad_input_names_the_field_and_the_column(
    http: TestClient, verb: str, fields: dict[str, Any], named: str
) -> None:
    message = refused(http, verb, **fields)
    assert named in message and "many" not in message


def test_the_client_has_verbs_of_tables(services: dict[str, Any]) -> None:
    with listening(build(services, ApiSettings()), log_level="warning") as port:
        client = Client(f"http://127.0.0.1:{port}")
        sampled = client.sample_rows("random_order", n=3, seed=1, where={"truth": False})
        assert [row["truth"] for row in sampled.rows] == [False] * 3 and sampled.nfe >= 1
        filled = client.impute_rows("random_order", rows=ROWS, n=2, seed=1)
        assert len(filled.rows) == 8 and filled.imputed[3] == {} and "low" in filled.imputed[2]["number"]
        scored = client.score_rows("random_order", csv="number\n9\n0\n")
        assert len(scored.bits) == len(scored.cells) == 2 and scored.cells[0]["truth"] is None
        *previews, last = client.stream("random_order", n=2, seed=1, where={"truth": False}, previews=2)
        assert isinstance(last, ClientRows) and last.rows == sampled.rows[:2]
        assert previews and all(isinstance(one, ClientPreview) and one.rows for one in previews)
