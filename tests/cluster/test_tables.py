"""Tables on Ray: trained on incomplete rows, evaluated, promoted, swept over families, and served through HTTP."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from gen_ray import run_directory
from gen_ray.client import Client
from gen_ray.cluster.data.preparation import prepare_data, training_data
from gen_ray.cluster.evaluation.copy_check import measure_copies
from gen_ray.cluster.evaluation.evaluate import evaluate_artifact
from gen_ray.cluster.serving import server
from gen_ray.cluster.serving.args import ServedModel, ServingApplication
from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.engine.evaluation.copy_gate import has_copy_figures
from gen_ray.engine.inference import artifact
from gen_ray.experiment import parse
from gen_ray.sweeps.config import load
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.conftest import CommandResult, free_port

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(480, method="thread")]
Run = Callable[..., CommandResult]
SWEEP = Path(__file__).parents[2] / "configs" / "sweeps" / "table-families.yaml"
TINY: dict[str, Any] = {
    "name": "flowers",
    "family": {"name": "discrete", "kernel": "random_order", "net": {"name": "columns", "width": 32, "depth": 1}},
    "data": {"source": "iris", "options": {"bins": 8, "hide_share": 0.2}, "batch_size": 32},
    "training": {"epochs": 20, "learning_rate": 1e-2, "precision": "float32", "ema_decay": 0.9, "patience": 50},
    "scaling": {"cpus_per_worker": 1, "use_gpu": False},
    "evaluation": {"likelihood_rows": 20, "effort": 5, "table_rows": 100},
    "tracking": {"experiment": "flowers"},
}
FIGURES = (
    "eval/bits_per_row",
    "eval/bits_beyond_marginals",
    "eval/bits_gap",
    "eval/column_shape_error",
    "eval/pair_trend_error",
    "eval/detection_auc",
    "eval/prediction_of_samples",
    "eval/nearest_train_share",
)


@pytest.fixture(scope="module")
def home(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flowers")


@pytest.fixture(scope="module")
def config(home: Path) -> Path:
    file = home / "flowers.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return file


@pytest.fixture(scope="module")
def run_id(home: Path, config: Path) -> str:
    """Return the run that ``gen-ray bench impute`` trains on rows of which a fifth of the values is missing."""
    with pytest.MonkeyPatch.context() as patch:
        from pipelines import bench_impute

        printed: list[str] = []
        patch.setattr(bench_impute.typer, "echo", lambda text, **how: how.get("err") or printed.append(text))
        bench_impute.impute(
            str(config), [], kind=["completely_at_random"], share=0.3, rows=20, k=5, seed=0, storage=home, as_json=True
        )
    found = json.loads("\n".join(printed))
    assert {result["method"] for result in found["results"]} > {"the model"} and len(found["results"]) == 4
    assert all(result["rmse"] > 0 and 0 <= result["accuracy"] <= 1 for result in found["results"])
    model = next(result for result in found["results"] if result["method"] == "the model")
    mean = next(result for result in found["results"] if "mean" in result["method"])
    assert model["rmse"] < mean["rmse"] and 0.5 < model["coverage"] <= 1
    assert found["train_rows"] > 80 and found["test_rows"] <= 20
    [folder] = (home / "runs").iterdir()
    return folder.name


def test_the_model_was_trained_on_incomplete_rows_and_measured(home: Path, run_id: str) -> None:
    settings = run_directory.load(home / "runs" / run_id)
    x = np.concatenate([np.array(_column(shard.path)) for shard in prepare_data(settings).shards("train")])
    assert 0.1 < (x < 0).mean() < 0.3
    [row] = [row for row in rows(Store.of_experiment(settings)) if row.run_id == run_id]
    assert row.status == "FINISHED" and set(FIGURES) <= set(row.metrics)
    assert row.tags["provenance.eval/bits_per_dim.kind"] == "elbo-ct", "test rows are complete"


def _column(file: Path) -> list[list[int]]:
    found: list[list[int]] = pq.read_table(file).column("x").to_pylist()
    return found


def test_evaluate_measures_a_table_on_a_worker(home: Path, run_id: str, gen_ray: Run) -> None:
    folder = home / "runs" / run_id / "artifact"
    experiment = run_directory.settings(folder, home)
    report = evaluate_artifact(experiment, training_data(experiment, folder), folder)
    recorded = run_directory.meta(folder)["metrics"]
    for name in FIGURES:
        assert report["metrics"][name] == pytest.approx(recorded[name], rel=0.02, abs=0.02), name
    assert report["provenance"]["eval/column_shape_error"]["values"] == "decoded" and report["pictures"]
    copies = measure_copies(experiment, training_data(experiment, folder), folder)
    assert has_copy_figures(copies)
    result = gen_ray("evaluate", run_id, "--storage", home)
    assert result.code == 0, result.err
    assert "bits per row" in result.out or "bits/row" in result.out or "eval/bits_per_row" in result.out


def test_families_and_kernels_are_searched_by_the_shipped_sweep(home: Path, tmp_path: Path) -> None:
    families = [
        {"name": "discrete", "net": {"name": "columns", "width": 16, "depth": 1}},
        {"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": [16]}},
        {"name": "ddpm", "steps": 50, "net": {"name": "mlp", "width": 16, "depth": 1}},
    ]
    changes = {
        "storage.root": str(home),
        "data.source": "iris",
        "data.options": "{bins: 8}",
        "data.batch_size": 32,
        "training": "{epochs: 3, patience: 2, precision: float32}",
        "evaluation": "{likelihood_rows: 20, effort: 4, table_rows: 60}",
        "scaling.cpus_per_worker": 1,
        "space.family.choice": json.dumps(families),
        "space.family.kernel.choice": "[random_order, uniform]",
    }
    plan = load(SWEEP, [f"{key}={value}" for key, value in changes.items()])
    assert [sorted(point) for point in plan.grid()] == [
        ["family", "family.kernel"],
        ["family", "family.kernel"],
        ["family"],
        ["evaluation.effort", "evaluation.sampler", "evaluation.steps", "family"],
    ]
    outcome = sweep(plan)
    assert [result.state for result in outcome.results] == ["finished"] * 4, [one.error for one in outcome.results]
    bits = [result.metrics["eval/bits_per_row"] for result in outcome.results]
    best = outcome.results[int(np.argmin(bits))]
    assert outcome.best == f"{outcome.sweep_id}.{best.number:03d}", "all families are ranked together"


@pytest.fixture(scope="module")
def client(home: Path, run_id: str) -> Iterator[Client]:
    app = ServingApplication(models={"flowers": ServedModel(model=run_id, cpus=0.5)}, root=home)
    with server.served(app, "127.0.0.1", free_port()) as address:
        yield Client(address)


def test_a_trained_table_is_served_through_ray_serve(client: Client, home: Path, run_id: str, gen_ray: Run) -> None:
    [card] = client.models()
    names = [column["name"] for column in card["data"]["columns"]]
    assert card["data"]["target"] == "target" and len(names) == 5 and card["exact_conditions"]
    drawn = client.sample_rows("flowers", n=40, seed=3)
    assert all(set(row) == set(names) and None not in row.values() for row in drawn.rows)
    result = gen_ray("sample", run_id, "-n", 40, "--seed", 3, "--storage", home, "--out", home / "samples.parquet")
    assert result.code == 0, result.err
    assert drawn.rows == pq.read_table(home / "samples.parquet").to_pylist(), "the rows of a seed are the same"

    incomplete = [{**row, name: None} for row, name in zip(drawn.rows, names * 8, strict=True)]
    incomplete = [{**row, names[i % 3]: None} for i, row in enumerate(incomplete)]
    filled = client.impute_rows("flowers", rows=incomplete, n=2, seed=5)
    assert len(filled.rows) == 80 and len(filled.imputed) == 40
    for i, row in enumerate(filled.rows):
        known = {name: value for name, value in incomplete[i // 2].items() if value is not None}
        assert known.items() <= row.items() and None not in row.values()
        assert set(filled.imputed[i // 2]) == set(names) - set(known)
    scored = client.score_rows("flowers", rows=incomplete, seed=1)
    for row, bits, cells in zip(incomplete, scored.bits, scored.cells, strict=True):
        assert [name for name in names if cells[name] is None] == [name for name in names if row[name] is None]
        assert bits > 0 and all(value > 0 for value in cells.values() if value is not None)


def test_rows_as_csv_through_ray_serve(client: Client) -> None:
    rows_ = client.sample_rows("flowers", n=3, seed=3).rows
    names = list(rows_[0])
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([names, *({**row, "target": ""}.values() for row in rows_)])
    filled = client.impute_rows("flowers", csv=text.getvalue(), n=1, seed=2)
    assert [set(cells) for cells in filled.imputed] == [{"target"}] * 3
    by_rows = client.impute_rows("flowers", rows=[{**row, "target": None} for row in rows_], n=1, seed=2)
    assert [row["target"] for row in filled.rows] == [row["target"] for row in by_rows.rows]
    bits = client.score_rows("flowers", csv=text.getvalue(), seed=2).bits
    assert bits == pytest.approx(
        client.score_rows("flowers", rows=[{**row, "target": None} for row in rows_], seed=2).bits
    )


def test_conditions_and_rows_with_different_masks_share_forward_passes(client: Client) -> None:
    from ray import serve

    drawn = client.sample_rows("flowers", n=20, seed=1, where={"target": "setosa|versicolor"})
    assert {row["target"] for row in drawn.rows} <= {"setosa", "versicolor"} and drawn.notes["candidates"] >= 20
    names, rows_ = list(drawn.rows[0]), drawn.rows
    before = serve.get_deployment_handle("flowers", server.NAME).counters.remote().result()
    with ThreadPoolExecutor(8) as threads:
        asked = [
            threads.submit(client.impute_rows, "flowers", rows=[{**row, names[i % 5]: None}], n=10, seed=i)
            for i, row in enumerate(rows_)
        ]
        found = [one.result() for one in asked]
    assert all(len(one.rows) == 10 for one in found)
    after = serve.get_deployment_handle("flowers", server.NAME).counters.remote().result()
    evaluations, ticks = (after[name] - before[name] for name in ("evaluations", "ticks"))
    assert evaluations >= 20 * 10 and evaluations / ticks > 10, "an evaluation has rows of several requests"


def test_copies_are_shown_where_runs_are_compared(home: Path, run_id: str, gen_ray: Run) -> None:
    experiment = parse({**TINY, "storage": {"root": str(home)}})
    [row] = [row for row in rows(Store.of_experiment(experiment)) if row.run_id == run_id]
    share = f"{row.metrics['eval/nearest_train_share']:.3f}"
    result = gen_ray("compare", "flowers", "--storage", home)
    assert result.code == 0 and "copies" in result.out and share in result.out, result.out
    model = artifact.load(home / "runs" / run_id / "artifact")
    assert model.meta["metrics"]["eval/nearest_train_share"] == pytest.approx(row.metrics["eval/nearest_train_share"])
