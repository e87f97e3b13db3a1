"""Figures are ranked against each other only where they were measured alike."""

import itertools
from typing import Any

import pytest

from gen_ray.comparison import tables
from gen_ray.errors import UserError
from gen_ray.tracking import Row

HOW = {"extractor": "classifier-1", "reference": "train", "reference_rows": "1462", "samples": "64", "data": "d"}


def run(name: str, bits: float = 1.0, status: str = "FINISHED", distance: float | None = 2.0, **how: str) -> Row:
    """Return a run as MLflow would give it."""
    tags = {"provenance.eval/bits_per_dim.kind": how.pop("kind", "elbo"), "provenance.eval/bits_per_dim.data": "d"}
    metrics = {"eval/bits_per_dim": bits, "eval/bits_per_dim_standard_error": 0.01, "train/steps": 10.0}
    if distance is not None:
        tags |= {f"provenance.eval/frechet_distance.{key}": word for key, word in {**HOW, **how}.items()}
        metrics |= {
            "eval/frechet_distance": distance,
            "eval/frechet_floor": 0.5,
            "eval/frechet_floor_rows": 180.0,
            "eval/precision": 1 / bits,
        }
    params = {"family.name": "vae", "data.source": "digits", "data.fingerprint": "d"}
    return Row(run_id=name, name=name, status=status, metrics=metrics, params=params, tags=tags)


def order(runs: list[Row], sort: str = "eval/bits_per_dim") -> list[list[str]]:
    return [[line[0] for line in table.lines] for table in tables(runs, sort)]


@pytest.mark.parametrize("key", sorted(HOW))
def test_figures_of_another_provenance_stand_in_another_table(key: str) -> None:
    other: dict[str, Any] = {key: "another" if not HOW[key].isdigit() else "7"}
    assert sorted(order([run("a"), run("b", 0.5, **other), run("c", 0.7)])) == [["b"], ["c", "a"]]


def test_the_kind_of_bound_stands_beside_the_number_and_separates_nothing() -> None:
    [table] = tables([run("a", 2.0, kind="elbo"), run("b", 1.5, kind="iwae-100")], "eval/bits_per_dim")
    column = table.header.index("kind")
    assert [(line[0], line[column]) for line in table.lines] == [("b", "iwae-100"), ("a", "elbo")]


def test_the_best_comes_first_whichever_way_best_is_and_whatever_order_they_came_in() -> None:
    runs = [run("a", 1.0), run("b", 3.0), run("c", 2.0)]
    for shuffled in itertools.permutations(runs):
        assert order(list(shuffled)) == [["a", "c", "b"]]
        assert order(list(shuffled), "eval/precision") == [["a", "c", "b"]]


def test_what_has_no_such_figure_comes_last() -> None:
    whole = run("bare")
    for sort in ("eval/bits_per_dim", "eval/precision"):
        left = {key: value for key, value in whole.metrics.items() if key != sort}
        bare = Row(**{**vars(whole), "metrics": left})
        assert order([bare, run("a")], sort) == [["a", "bare"]]


def test_only_finished_runs_are_compared() -> None:
    assert order([run("a"), run("b", status="FAILED"), run("c", status="RUNNING")]) == [["a"]]
    assert tables([run("b", status="KILLED")], "eval/bits_per_dim") == []


def test_the_title_tells_what_the_distance_was_measured_with_and_its_floor() -> None:
    [table] = tables([run("a")], "eval/bits_per_dim")
    assert all(word in table.title for word in ("digits (d)", "64 samples", "1462 train", "classifier-1", "0.50"))
    [table] = tables([run("a", distance=None)], "eval/bits_per_dim")
    assert table.title == "digits (d)"


def test_a_figure_that_no_run_has_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'eval/bits_per_dim'"):
        tables([run("a")], "eval/bits_per_dimm")
