"""gen-ray promote: its options reach the measurement and the named store; listing of jobs."""

from pathlib import Path
from typing import Any

import pytest

from gen_ray.cluster.evaluation.sampler_benchmark import MeasurementPlan
from gen_ray.cluster.jobs.jobs import RayJob
from gen_ray.engine.inference import artifact
from gen_ray.tracking.registry import champion
from gen_ray.tracking.releases import Release
from gen_ray.tracking.runs import TrackedRun
from gen_ray.tracking.store import Store
from tests.engine.tiny_models import model

RUN = "toy-20260101-000000"


def test_options_reach_the_measurement_and_the_named_store(
    gen_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, calls = f"sqlite:///{tmp_path}/elsewhere.db", []
    made = model()
    artifact.write(tmp_path / "runs" / RUN / "artifact", made)
    store = Store(elsewhere, "gen_ray", (tmp_path / "kept").as_uri())
    for run_id, bits in ((made.meta["run_id"], 1.0), ("other", 2.0)):
        run = TrackedRun(store, run_id, name=RUN, params={}, tags={})
        run.log({"eval/bits_per_dim": bits}, 1)
        run.close("FINISHED")

    def measured(experiment: object, folder: Path, store: Store, run: object, order: MeasurementPlan) -> Release:
        calls.append(order)
        return Release(version="")

    monkeypatch.setattr("pipelines.promote._measured", measured)
    monkeypatch.setattr("pipelines.copying._measured", lambda *_: {"eval/bits_gap": 0.0})
    options = ["--storage", tmp_path, "--tracking-uri", elsewhere]
    result = gen_ray("promote", RUN, *options, "--name", "toy", "--seed", 3, "--batch-size", 7, "-n", 20, "--steps", 1)
    assert result.code == 0, result
    assert calls == [MeasurementPlan(samplers=(), steps=[1], n=20, seed=3, batch_size=7, minutes=10.0)]
    present = champion(store, "toy")
    assert present is not None and present.run_id == made.meta["run_id"]
    assert not (tmp_path / "mlflow.db").exists()
    back = gen_ray("promote", "--rollback", "toy", *options)
    assert back.code == 1 and "previous champion" in back.fault


@pytest.mark.parametrize("width", [30, 60, 80, 130])
def test_jobs_are_listed_whole_on_narrow_terminals(width: int, gen_ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        RayJob(
            id=f"raysubmit_abcdefghijklmno{n}", state="failed", began=1.7e9 + n, seconds=123.4,
            command="python -m pipelines.train configs/demo/digits-ddpm.yaml training.epochs=3",
            message="[/x] job supervisor actor died",
        )
        for n in range(2)
    ]  # fmt: skip
    monkeypatch.setattr("gen_ray.cluster.jobs.jobs.Jobs.all", lambda _: jobs)
    for name, value in {"COLUMNS": str(width), "FORCE_COLOR": "1", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    result = gen_ray("jobs", "list")
    assert (
        result.code == 0
        and all(job.id in result.out and "failed" in result.out for job in jobs)
        and "…" not in result.out
    )
    assert result.out.count("[/x]") == 2


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--sampler", "nosuch"], "sampler 'nosuch'; "),
        (["--sampler", "draw:x=1"], "option 'x'; "),
        (["--rollback", "toy"], "give one of RUN"),
    ],
)
def test_a_wrong_option_is_refused_before_mlflow_and_ray_are_used(
    gen_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], fault: str
) -> None:
    artifact.write(tmp_path / "runs" / RUN / "artifact", model())
    monkeypatch.setattr("gen_ray.tracking.runs.row", lambda *_: pytest.fail("MLflow was used"))
    answer = gen_ray("promote", RUN, "--storage", tmp_path, *words)
    assert answer.code == 2 and fault in answer.fault and not (tmp_path / "mlflow.db").exists()
