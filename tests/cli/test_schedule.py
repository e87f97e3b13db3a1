"""gen-ray schedule, and the MLflow records of a sweep that a schedule started."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from gen_ray.cluster.sweeps.report import SweepOutcome
from gen_ray.metrics import BITS_PER_DIM
from gen_ray.recurring.store import ScheduleStore
from gen_ray.sweeps.study import TrialResult
from gen_ray.tracking.registry import PromotionResult, champion
from gen_ray.tracking.runs import RunRow, rows
from gen_ray.tracking.store import Store
from tests.cluster.tiny_runs import TINY
from tests.conftest import ROOT, CommandResult

BITS = BITS_PER_DIM.name
Run = Callable[..., CommandResult]
NIGHTLY = ["--cron", "0 2 * * *"]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of sweep.yaml, a sweep of two trials, and make it the current folder."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**TINY, "storage": {"root": "runs"}}))
    raw = {
        "name": "two", "experiment": "base.yaml", "searcher": {"name": "grid"}, "concurrency": 1,
        "space": {"family.latent_dim": {"choice": [2, 3]}},
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_schedules_are_added_listed_and_removed(gen_ray: Run, sweep: Path) -> None:
    listing = ["schedule", "list", "--storage", "runs"]
    assert f"no schedules in {sweep}/runs/schedules" in gen_ray(*listing).out
    result = gen_ray(
        "schedule", "add", "sweep.yaml", "trials=1", "--cron", "0 2 * * 1", "--timezone", "Europe/Berlin",
        "--name", "mondays", "--promote", "digits", "--margin", "0.02", "--grace-minutes", "5",
    )  # fmt: skip
    assert result.code == 0 and f"{sweep}/runs/schedules/mondays.yaml: next 2" in result.out
    assert gen_ray("schedule", "add", "sweep.yaml", *NIGHTLY).code == 0
    listed = gen_ray(*listing)
    assert listed.code == 0
    assert all(word in listed.out for word in ("mondays", "0 2 * * 1", "Europe/Berlin", "two", "UTC"))
    schedule = ScheduleStore(sweep / "runs").load("mondays")
    assert (schedule.folder, schedule.config, schedule.promote, schedule.margin) == (
        sweep,
        "sweep.yaml",
        "digits",
        0.02,
    )
    assert list(schedule.overrides) == ["trials=1"] and schedule.grace_minutes == 5 and schedule.address is None
    assert gen_ray("schedule", "remove", "mondays", "--storage", "runs").out == "mondays: removed\n"
    assert "mondays" not in gen_ray(*listing).out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sweep.yaml", "--cron", "61 2 * * *"], "error: cron: bad minute; five fields"),
        (["sweep.yaml", "--cron", "@daily"], "cron: five fields are expected (minute hour"),
        (["sweep.yaml", *NIGHTLY, "--timezone", "Europe/Berln"], "timezone: did you mean 'Europe/Berlin'"),
        (["sweep.yaml", *NIGHTLY, "--name", "../up"], "error: name: "),
        (
            ["sweep.yaml", *NIGHTLY, "--address", "head:10001"],
            "address: must be the dashboard's address, e.g. http://head:8265",
        ),
        (["sweep.yaml", *NIGHTLY, "--margin", "0.1"], "--margin: has no effect without --promote"),
        (["sweep.yaml", *NIGHTLY, "--promote", "a/b"], "--promote 'a/b': "),
        (["nowhere.yaml", *NIGHTLY], "nowhere.yaml: No such file"),
        (
            ["base.yaml", *NIGHTLY],
            "base.yaml: configures a training (it has the key 'family'), not a sweep: gen-ray train",
        ),
        (["sweep.yaml", "trials=none", *NIGHTLY], "error: trials: "),
        (["sweep.yaml", "training.epoch=3", *NIGHTLY], "did you mean 'epochs'"),
        (["sweep.yaml"], "Missing option '--cron'"),
    ],
)
def test_an_impossible_schedule_is_refused_and_nothing_is_written(
    gen_ray: Run, sweep: Path, words: list[str], expected: str
) -> None:
    result = gen_ray("schedule", "add", *words)
    assert result.code == 2 and expected in result.fault and not (sweep / "runs").exists()


def test_taken_and_unknown_names_are_refused(gen_ray: Run, sweep: Path) -> None:
    gen_ray("schedule", "add", "sweep.yaml", *NIGHTLY)
    result = gen_ray("schedule", "add", "sweep.yaml", *NIGHTLY)
    assert result.code == 2 and "there is a schedule 'two' already" in result.fault
    for words in (["remove", "tow"], ["run", "--once", "tow"]):
        result = gen_ray("schedule", *words, "--storage", "runs")
        assert result.code == 2 and "no schedule 'tow'" in result.fault and "did you mean 'two'" in result.fault


@pytest.mark.parametrize("word", ["colour", "=red", "a*b=c", "colour="])
def test_a_tag_that_mlflow_would_refuse_is_refused_before_anything_runs(gen_ray: Run, sweep: Path, word: str) -> None:
    result = gen_ray("sweep", "sweep.yaml", "--tag", word)
    assert result.code == 2 and f"--tag '{word}': write key=value" in result.fault


@pytest.mark.chaos  # the longest of these tests, because it runs the whole command
def test_an_occurrence_is_a_sweep_linked_to_its_schedule_whose_winner_is_champion(
    gen_ray: Run, sweep: Path, storage: Path
) -> None:
    """Runs a separate process with its own Ray, as for a user; data and database are those of the session."""
    own = [f"storage.root={storage}", "tracking.experiment=nightly"]
    added = gen_ray("schedule", "add", "sweep.yaml", *own, *NIGHTLY, "--name", "nightly", "--promote", "nightly")
    assert added.code == 0
    command = [sys.executable, "-m", "pipelines.schedule", "run", "--once", "nightly", "--storage", str(storage)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    [log] = (storage / "schedules" / "logs").glob("nightly-*.log")
    assert done.returncode == 0 and f"{log.stem}: done" in done.stdout, log.read_text() + done.stderr
    store = Store.of(None, "nightly", storage)
    [parent] = [row for row in rows(store) if row.tags.get("gen_ray.kind") == "sweep"]
    assert parent.status == "FINISHED" and parent.tags["gen_ray.schedule"] == "nightly"
    assert datetime.fromisoformat(parent.tags["gen_ray.occurrence"]).strftime("nightly-%Y%m%dT%H%M%SZ") == log.stem
    found = champion(store, "nightly")
    assert found is not None and found.run_id == parent.tags["best_run"]
    expected = f"champion of nightly: version 1 (run {found.run_id}), eval/bits_per_dim {found.figure}, the first"
    assert parent.tags["promotion"] == expected and expected in log.read_text()
    assert "done" in gen_ray("schedule", "list", "--storage", storage).out
    assert gen_ray("schedule", "remove", "nightly", "--storage", storage).code == 0


def test_a_failed_trial_does_not_prevent_a_champion(gen_ray: Run, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = {"point": {}, "value": 1.0, "metrics": {}, "error": "", "reason": "", "seconds": 1.0}
    results = [TrialResult(number=0, state="finished", **trial), TrialResult(number=1, state="failed", **trial)]
    outcome = SweepOutcome(
        sweep_id="two-1", results=results, header=["trial"], lines=[["000"], ["001"]], best="two-1.000"
    )
    calls: list[object] = []
    monkeypatch.setattr("gen_ray.cluster.sweeps.sweep.sweep", lambda *_, tags, **__: calls.append(tags) or outcome)
    for module in ("registry", "runs"):
        monkeypatch.setattr(
            f"gen_ray.tracking.{module}.row", lambda _, run_id: RunRow(run_id, "", "", {BITS: 1.0}, {}, {})
        )
    monkeypatch.setattr("gen_ray.run_directory.artifact_of", lambda run_id, root: root / run_id)
    monkeypatch.setattr("gen_ray.tracking.releases.store_artifact", lambda *_: ("model", "d" * 64))
    monkeypatch.setattr(
        "gen_ray.tracking.registry.promote", lambda _, model, *args, margin: PromotionResult(True, f"{model} {margin}")
    )
    monkeypatch.setattr("gen_ray.tracking.runs.set_tags", lambda _, run_id, tags: calls.append((run_id, tags)))
    result = gen_ray("sweep", "sweep.yaml", "--promote", "digits", "--margin", "0", "--tag", "a=b=c", "--tag", "d=e")
    assert result.code == 1 and result.fault.startswith("error: two-1: 1 of 2 trials") and "digits 0.0\n" in result.out
    assert calls == [{"a": "b=c", "d": "e"}, ("two-1", {"promotion": "digits 0.0"})]
