"""The record of a sweep, which remains after the death of its driver."""

import time
from pathlib import Path
from typing import Any

import pytest

from gen_ray.errors import UserError
from gen_ray.sweeps.config import load
from gen_ray.sweeps.pictures import pictures
from gen_ray.sweeps.points import predetermined_points
from gen_ray.sweeps.study import RECORD, Study, TrialCopy, table
from tests.sweeps.test_config import written

BITS, COST = "eval/bits_per_dim", "sample/seconds_per_image"
MIXED: dict[str, Any] = {
    "family.latent_dim": {"randint": [1, 9]},
    "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "family.net": {"choice": [{"name": "mlp", "hidden": [16]}, {"name": "mlp", "hidden": [32, 32]}]},
}


def study(folder: Path, **keys: Any) -> Study:
    return Study(load(written(folder, **keys)), folder)


def trial_settings(record: Study) -> list[tuple[int, Any]]:
    found = []
    while not record.exhausted():
        found.append(record.ask())
    return found


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_a_record_reopened_after_a_kill_continues_at_the_same_point(tmp_path: Path, searcher: str) -> None:
    keys = {"space": MIXED, "searcher": {"name": searcher, "seed": 3}, "trials": 6}
    first = study(tmp_path, **keys)
    open_trials = [first.ask() for _ in range(4)]
    assert all(open_trials)
    first.tell(0, {BITS: 2.0, COST: 0.1})
    first.tell(2, {}, error="boom", reason="bang")
    again = study(tmp_path, **keys)
    rest = trial_settings(again)
    assert rest[:2] == [open_trials[1], open_trials[3]], "running trials come first, unchanged"
    assert [number for number, _ in rest] == [1, 3, 4, 5]
    for number, _ in rest:
        again.tell(number, {BITS: 3.0 + number, COST: 1.0 / (1 + number)})
    results = study(tmp_path, **keys).results()
    assert [r.state for r in results] == ["finished", "finished", "failed", "finished", "finished", "finished"]
    assert [r.number for r in again.best()] == [0, 1, 3, 4, 5] and (results[2].error, results[2].reason) == (
        "boom",
        "bang",
    )
    assert results[0].point == open_trials[0][1] and results[0].metrics == {BITS: 2.0, COST: 0.1}  # type: ignore[index]
    drawn = pictures(again)
    assert {"parallel_coordinates", "metric_against_each_key", "importance", "quality_against_cost"} == drawn.keys()
    assert all(picture.ndim == 3 and picture.std() > 0 for picture in drawn.values())


def test_the_minutes_of_a_resumed_trial_leave_out_the_time_without_a_driver(tmp_path: Path) -> None:
    """Otherwise a trial of a sweep that was interrupted overnight would have a duration of hours."""
    keys = {"space": {"family.latent_dim": {"choice": [1, 2]}}}
    first = study(tmp_path, **keys)
    trial_settings(first)
    time.sleep(0.3)
    first.tell(1, {BITS: 2.0})  # the last record of this driver
    for _ in range(2):
        time.sleep(0.5)
        again = study(tmp_path, **keys)
        trial_settings(again)
    time.sleep(0.2)
    again.tell(0, {BITS: 1.0})
    trial, (result, _) = again.study.trials[0], again.results()
    assert trial.duration is not None and 0.5 <= result.seconds <= trial.duration.total_seconds() - 1.0


def test_predetermined_points_are_distinct_and_depend_on_the_seed_only(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"space": MIXED, "trials": 8}
    by_seed = [
        predetermined_points(load(written(tmp_path, searcher={"name": "random", "seed": s}, **keys))) for s in (1, 1, 2)
    ]
    assert by_seed[0] == by_seed[1] != by_seed[2]
    few = {"space": {"family.latent_dim": {"randint": [1, 3]}}, "searcher": {"name": "random"}, "trials": 50}
    points = predetermined_points(load(written(tmp_path, **few)))
    assert points is not None and sorted(point["family.latent_dim"] for point in points) == [1, 2, 3]


def test_a_trial_without_a_finite_metric_has_failed(tmp_path: Path) -> None:
    record = study(tmp_path, space={"family.latent_dim": {"choice": [1, 2, 3]}})
    trial_settings(record)
    record.tell(0, {BITS: float("nan")})
    record.tell(1, {})
    record.tell(2, {BITS: 4.0}, stopped_at=3)
    assert [r.state for r in record.results()] == ["failed", "failed", "stopped early"] and not record.best()
    header, lines = table(record.results(), record.sweep.space, BITS)
    assert header == ["trial", "latent_dim", BITS, "state", "minutes"]
    assert lines[0][3] == f"failed: {BITS} is nan" and lines[2][1:4] == ["3", "4", "stopped early"]
    assert pictures(record) == {}


def test_a_trial_that_became_a_copy_is_shown_with_its_final_settings(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"space": MIXED, "searcher": {"name": "random"}, "trials": 3}
    record = study(tmp_path, **keys)
    open_trials = dict(trial_settings(record))
    near = {**open_trials[0], "training.learning_rate": 5e-3, "family.net": {"name": "mlp", "hidden": [32, 32]}}
    record.copy(2, TrialCopy(epoch=10, donor=1, point=open_trials[1]))
    copies = record.copy(2, TrialCopy(epoch=20, donor=0, point=near))
    assert [str(copy) for copy in copies] == ["001 at epoch 10", "000 at epoch 20"] and record.point(2) == near
    again = study(tmp_path, **keys)
    assert dict(trial_settings(again))[2] == near and again.copies(2) == copies, (
        "current settings remain after the driver's death"
    )
    for number in range(3):
        again.tell(number, {BITS: float(number)})
    ended = again.results()
    assert ended[2].point == near and ended[2].copies == copies and ended[0].point == open_trials[0]
    assert again.plotted().trials[2].params["training.learning_rate"] == 5e-3
    _, lines = table(ended, again.sweep.space, BITS)
    assert lines[2][2] == "0.005" and lines[2][5] == "finished, from 001 at epoch 10, from 000 at epoch 20"


GRID: dict[str, Any] = {"space": {"family.latent_dim": {"choice": [1, 2, 3, 4]}}, "searcher": {"name": "grid"}}


def journal_lines(folder: Path) -> list[bytes]:
    return (folder / RECORD).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("cut", [1, 20, 0], ids=["line end", "half a line", "zeros behind"])
def test_a_record_continues_without_a_partial_last_line(tmp_path: Path, cut: int) -> None:
    first = study(tmp_path, **GRID)
    point = first.ask()[1]
    first.tell(0, {BITS: 2.0, COST: 0.1})
    whole = (tmp_path / RECORD).read_bytes()
    (tmp_path / RECORD).write_bytes(whole[:-cut] if cut else whole + b"\0" * 512)
    again = study(tmp_path, **GRID)
    rest = trial_settings(again)
    assert [number for number, _ in rest] == ([0, 1, 2, 3] if cut else [1, 2, 3]), (
        "trial 0 is repeated if its end was cut off"
    )
    for number, _ in rest:
        again.tell(number, {BITS: 3.0, COST: 0.1})
    results = study(tmp_path, **GRID).results()
    assert [r.state for r in results] == ["finished"] * 4 and results[0].point == point


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_grid_whose_writer_was_killed_is_completed(tmp_path: Path, lines: int) -> None:
    points = [point for _, point in trial_settings(study(tmp_path, **GRID))]
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / RECORD).write_bytes(b"".join(journal_lines(tmp_path)[:lines]))
    assert [point for _, point in trial_settings(study(cut, **GRID))] == points


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe\n", b"\n", b"[]\n", b"null\n", b'{"op_code": "a"}\n', b"[" * 9999 + b"\n"]
)
@pytest.mark.parametrize("line", [0, 2])
def test_a_damaged_record_is_refused_with_its_line(tmp_path: Path, line: int, damage: bytes) -> None:
    study(tmp_path, **GRID)
    lines = journal_lines(tmp_path)
    content = b"".join([*lines[:line], damage, *lines[line:]])
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(UserError, match=f"{RECORD}: line {line + 1} is damaged"):
        study(tmp_path, **GRID)
    assert (tmp_path / RECORD).read_bytes() == content


def test_a_record_without_its_beginning_is_refused(tmp_path: Path) -> None:
    study(tmp_path, **GRID)
    (tmp_path / RECORD).write_bytes(b"".join(journal_lines(tmp_path)[1:]))
    with pytest.raises(UserError, match="line 1 is damaged"):
        study(tmp_path, **GRID)
