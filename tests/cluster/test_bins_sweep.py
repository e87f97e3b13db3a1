"""A sweep over the numbers of intervals of a table: each trial has its own prepared data, also after a resumption."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from gen_ray import resumption, run_directory
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.engine.evaluation.provenance import comparison_key
from gen_ray.errors import EndedError, UserError
from gen_ray.sweeps.config import SweepPlan, load
from gen_ray.tracking.comparison import measured_with
from tests.cluster.test_sweep import story
from tests.cluster.tiny_runs import in_this_process, same, weights

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(480, method="thread")]
SWEEP = Path(__file__).parents[2] / "configs" / "sweeps" / "table-bins.yaml"
BEYOND, BITS = "eval/bits_beyond_marginals", "eval/bits_per_dim"


def written(folder: Path, seed: int = 0) -> Path:
    """Write 400 rows of two dependent numbers and a word to a CSV file."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=400)
    cells = {"a": a, "b": a + rng.normal(size=400) / 4, "kind": np.where(rng.random(400) < 0.5, "x", "y")}
    pa.csv.write_csv(pa.table(cells), folder / "rows.csv")
    return folder / "rows.csv"


def shipped(file: Path, storage: Path, **changes: Any) -> SweepPlan:
    """Return the shipped sweep over 4 and 8 intervals of a file's numbers, one epoch for each trial."""
    changed = {
        "name": storage.name,
        "storage.root": str(storage),
        "data.source": f"csv:{file}",
        "data.options": "{}",
        "data.batch_size": 32,
        "family.net": "{name: columns, width: 16, depth: 1}",
        "training": "{epochs: 1, precision: float32, checkpoint_every_seconds: 0}",
        "evaluation": "{likelihood_rows: 20, effort: 3, table_rows: 60}",
        "scaling": "{cpus_per_worker: 1, use_gpu: false}",
        "tracking.experiment": storage.name,
        "space.data.options.bins.choice": "[4, 8]",
        "concurrency": 1,
        **changes,
    }
    return load(SWEEP, [f"{key}={value}" for key, value in changed.items()])


def test_each_number_of_intervals_has_its_own_data_and_all_trials_are_ranked_together(tmp_path: Path) -> None:
    file, storage = written(tmp_path), tmp_path / "over-bins"
    plan = shipped(file, storage, **{"space.training.seed.choice": "[1, 2]"})
    done = sweep(plan)
    assert [result.point for result in done.results] == [
        {"data.options.bins": bins, "training.seed": seed} for bins in (4, 8) for seed in (1, 2)
    ]
    assert [result.state for result in done.results] == ["finished"] * 4, [result.error for result in done.results]
    assert len(list((storage / "data").glob("rows-*"))) == 2, "trials with equal intervals share their data"
    figures = [result.metrics[BEYOND] for result in done.results]
    assert done.best == f"{done.sweep_id}.{int(np.argmin(figures)):03d}"
    parent, trials = story(plan)
    prepared = [prepare_data(plan.experiment(result.point)) for result in done.results]
    fingerprints = [one.fingerprint[:12] for one in prepared]
    assert [trial.params["data.fingerprint"] for trial in trials] == fingerprints
    assert [trial.params["data.options.bins"] for trial in trials] == ["4", "4", "8", "8"]
    assert parent.params["data.fingerprint"] == f"{fingerprints[0]}, {fingerprints[2]}" != ", ".join(fingerprints[:2])
    assert parent.metrics["best/eval_bits_beyond_marginals"] == pytest.approx(min(figures))
    for metric, kinds in ((BEYOND, 1), (BITS, 2)):
        assert len({str(comparison_key(measured_with(trial.tags, metric))) for trial in trials}) == kinds
    for result, data in zip(done.results[1:3], prepared[1:3], strict=True):  # one process trained all
        experiment = plan.experiment(result.point)
        trained, _ = in_this_process(experiment, data)
        artifact = run_directory.folder(experiment, f"{done.sweep_id}.{result.number:03d}") / "artifact"
        assert same(trained, weights(artifact))
        assert data.spec.columns[0].cardinality == result.point["data.options.bins"]


def test_a_sweep_over_intervals_resumes_with_the_same_data_only(tmp_path: Path) -> None:
    file, storage = written(tmp_path), tmp_path / "cut-bins"
    plan, before = shipped(file, storage), file.stat()

    def cut(done: int, *_: Any) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(EndedError, match="`resume`"):
        sweep(plan, watch=cut)
    [home] = (storage / "sweeps").iterdir()
    saved = json.loads((home / resumption.DATA).read_text())
    kept = [prepare_data(plan.experiment(point)).fingerprint for point in plan.grid()]
    assert [saved["fingerprint"], saved["others"][0]["fingerprint"]] == kept
    result = run_directory.folder(plan.first, f"{home.name}.000") / "result.json"
    finished = result.stat().st_mtime_ns
    written(tmp_path, seed=1)
    with pytest.raises(UserError, match=rf"is not what {home.name} was trained on: it was {kept[0][:12]}"):
        sweep(shipped(file, storage), resume=True)
    written(tmp_path)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = sweep(shipped(file, storage), resume=True)
    assert [one.state for one in done.results] == ["finished"] * 2 and result.stat().st_mtime_ns == finished
    parent, trials = story(plan)
    assert parent.status == "FINISHED" and [trial.params["data.fingerprint"] for trial in trials] == [
        fingerprint[:12] for fingerprint in kept
    ]
