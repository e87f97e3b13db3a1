"""Comparison of runs: only metrics of the same provenance are ranked against each other."""

import csv
import io
import itertools
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from gen_ray.errors import UserError
from gen_ray.tracking.comparison import differences, tables
from gen_ray.tracking.export import to_csv, to_json
from gen_ray.tracking.registry import record
from gen_ray.tracking.runs import RunRow

HOW = {"extractor": "classifier-1", "reference": "train", "reference_rows": "1462", "samples": "64", "data": "d"}


def run(name: str, bits: float = 1.0, status: str = "FINISHED", distance: float | None = 2.0, **how: str) -> RunRow:
    """Return a run like those from MLflow."""
    own = {"kind": how.pop("kind", "elbo"), "data": "d", **({"values": how.pop("values")} if "values" in how else {})}
    tags = {f"provenance.eval/bits_per_dim.{key}": word for key, word in own.items()}
    metrics = {"eval/bits_per_dim": bits, "eval/bits_per_dim_standard_error": 0.01, "train/steps": 10.0}
    if distance is not None:
        tags |= {f"provenance.eval/frechet_distance.{key}": word for key, word in {**HOW, **how}.items()}
        metrics |= {
            "eval/frechet_distance": distance,
            "eval/frechet_floor": 0.5,
            "eval/frechet_floor_rows": 30.0,
            "eval/frechet_distance_at_floor_rows": distance + 1,
            "eval/precision": 1 / bits,
        }
    params = {"family.name": "vae", "data.source": "digits", "data.fingerprint": "d"}
    return RunRow(run_id=name, name=name, status=status, metrics=metrics, params=params, tags=tags)


def order(runs: list[RunRow], sort: str = "eval/bits_per_dim") -> list[list[str]]:
    return [[line[0] for line in table.lines] for table in tables(runs, sort)]


@pytest.mark.parametrize("key", sorted(HOW))
def test_metrics_of_another_provenance_are_in_another_table(key: str) -> None:
    other: dict[str, Any] = {key: "another" if not HOW[key].isdigit() else "7"}
    assert sorted(order([run("a"), run("b", 0.5, **other), run("c", 0.7)])) == [["b"], ["c", "a"]]


def test_the_kind_of_bound_is_shown_and_does_not_separate_tables() -> None:
    [table] = tables([run("a", 2.0, kind="elbo"), run("b", 1.5, kind="iwae-100")], "eval/bits_per_dim")
    column = table.header.index("kind")
    assert [(line[0], line[column]) for line in table.lines] == [("b", "iwae-100"), ("a", "elbo")]


def test_the_best_run_comes_first_for_either_direction_and_any_input_order() -> None:
    runs = [run("a", 1.0), run("b", 3.0), run("c", 2.0)]
    for shuffled in itertools.permutations(runs):
        assert order(list(shuffled)) == [["a", "c", "b"]]
        assert order(list(shuffled), "eval/precision") == [["a", "c", "b"]]


def test_runs_without_the_metric_come_last() -> None:
    whole = run("bare")
    for sort in ("eval/bits_per_dim", "eval/precision"):
        left = {key: value for key, value in whole.metrics.items() if key != sort}
        bare = RunRow(**{**vars(whole), "metrics": left})
        assert order([bare, run("a")], sort) == [["a", "bare"]]


def test_only_finished_runs_are_compared() -> None:
    assert order([run("a"), run("b", status="FAILED"), run("c", status="RUNNING")]) == [["a"]]
    assert tables([run("b", status="KILLED")], "eval/bits_per_dim") == []


def test_the_title_has_the_provenance_of_the_distance_and_its_floor() -> None:
    [table] = tables([run("a")], "eval/bits_per_dim")
    assert all(word in table.title for word in ("digits (d)", "64 samples", "1462 train", "classifier-1", "0.50"))
    assert "30 held-out" in table.title and "the reference is the training split" in table.title
    assert table.lines[0][table.header.index("Fréchet of 30")] == "3.00", "as many samples as held-out images"
    [table] = tables([run("a", distance=None)], "eval/bits_per_dim")
    assert table.title == "digits (d)"


def test_a_metric_that_no_run_has_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'eval/bits_per_dim'"):
        tables([run("a")], "eval/bits_per_dimm")


BINARISED = [
    pytest.param({"kind": "iwae-100-binary"}, {"kind": "iwae-100"}, id="as recorded before values were"),
    pytest.param(
        {"kind": "elbo-binary", "values": "static binary"}, {"kind": "elbo", "values": "stored"}, id="grey and binary"
    ),
    pytest.param(
        {"kind": "elbo-binary", "values": "static binary"},
        {"kind": "elbo-binary", "values": "dynamic binary"},
        id="two ways to binarise",
    ),
]


@pytest.mark.parametrize(("one", "other"), BINARISED)
def test_bits_of_other_values_are_neither_ranked_nor_compared_with_a_champion(
    one: dict[str, str], other: dict[str, str]
) -> None:
    runs = [run("a", 1.0, **one), run("b", 4.71, **other)]
    assert sorted(order(runs)) == [["a"], ["b"]]
    mine, theirs = (record(each, "eval/bits_per_dim").provenance for each in runs)
    assert mine != theirs, "registry.promote compares these"
    assert "eval/bits_per_dim.values: " in differences(tables(runs, "eval/bits_per_dim"))
    assert len({record(each, "eval/precision").provenance for each in runs}) == 1, (
        "the distance is computed from the same values"
    )


def test_the_sort_metric_always_has_a_column() -> None:
    runs = [run("a"), run("b")]
    for number, each in enumerate(runs):
        runs[number] = RunRow(**{**vars(each), "metrics": {**each.metrics, "validation/loss_nats": 2.0 - number}})
    [table] = tables(runs, "validation/loss_nats")
    assert [line[table.header.index("validation/loss_nats")] for line in table.lines] == ["1", "2"]
    [table] = tables(runs, "eval/recall") if "eval/recall" in runs[0].metrics else tables(runs, "eval/precision")
    assert "precision" not in table.dispensable and "steps" in table.dispensable


def test_csv_and_json_hold_every_digit_of_every_run() -> None:
    runs = [run("a", 1 / 3, samples="9"), run("b,[/x]", 2 / 3), run("c", math.nan)]
    groups = tables(runs, "eval/bits_per_dim")
    lines = {line["run"]: line for line in csv.DictReader(io.StringIO(to_csv(groups)))}
    assert float(lines["a"]["eval/bits_per_dim"]) == 1 / 3 and float(lines["b,[/x]"]["eval/bits_per_dim"]) == 2 / 3
    assert lines["a"]["table"] != lines["c"]["table"] == lines["b,[/x]"]["table"]
    assert lines["a"]["provenance.eval/frechet_distance.samples"] == "9"

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    read = {one["run"]: one for group in json.loads(to_json(groups), parse_constant=refuse) for one in group["runs"]}
    assert read["a"]["metrics"]["eval/bits_per_dim"] == 1 / 3 and read["c"]["metrics"]["eval/bits_per_dim"] is None
    assert read["b,[/x]"]["provenance"]["eval/frechet_distance"]["samples"] == "64"


def test_the_module_of_provenance_does_not_import_torch() -> None:
    code = "import sys, gen_ray.engine.evaluation.provenance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
