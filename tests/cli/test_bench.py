"""gen-ray bench: every requested measurement is reported. The speed itself is not tested."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gen_ray.engine.inference import artifact
from tests.cluster.tiny_runs import TINY
from tests.conftest import ROOT, CommandResult
from tests.engine import overfitted
from tests.engine.tiny_models import model

CONFIG = ROOT / "configs" / "demo" / "digits-ddpm.yaml"


def test_every_sampler_and_batch_is_measured(gen_ray: Callable[..., CommandResult], tmp_path: Path) -> None:
    words = [CONFIG, f"storage.root={tmp_path}", "family.net={name: mlp, width: 8, depth: 1}", "--rounds", 2]
    result = gen_ray("bench", "sample", *words, "--sampler", "ddim:eta=1", "--sampler", "heun", "--steps", 4, "--json")
    assert result.code == 0, result
    found = json.loads(result.out)["walks"]
    assert [(walk["sampler"], walk["batch"], walk["nfe"]) for walk in found] == [
        ("ddim:eta=1", 1, 4),
        ("ddim:eta=1", 16, 4),
        ("heun", 1, 7),
        ("heun", 16, 7),
    ]
    for walk in found:
        assert (
            0 < walk["ratio_lowest"] <= walk["ratio"] <= walk["ratio_highest"] and walk["evaluation_milliseconds"] > 0
        )
    output = gen_ray("bench", "sample", *words, "--batch", 2).out
    assert "digits-ddpm: 2 rounds, 1 thread" in output and "ddim" in output


def test_an_unknown_sampler_is_refused(gen_ray: Callable[..., CommandResult], tmp_path: Path) -> None:
    result = gen_ray("bench", "sample", CONFIG, f"storage.root={tmp_path}", "--sampler", "dimm")
    assert result.code == 2 and "did you mean 'ddim'?" in result.fault
    assert gen_ray("bench", "sample", CONFIG, "--batch", 0).code == 2


def test_imputation_is_compared_with_other_methods_on_the_same_cells(
    gen_ray: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, x = overfitted.rows(500)
    splits = {"train": x[:300].numpy(), "test": x[300:].numpy()}
    made = overfitted.trained(spec, x[:300], 20)
    monkeypatch.setattr("pipelines.bench_impute._model", lambda *_: (made, None))
    monkeypatch.setattr("gen_ray.datasets.random_rows.read_random_rows", lambda _, split, n: (splits[split][:n], None))
    command = ["bench", "impute", "rows-run", "-n", 100, "-k", 19, "--share", 0.2]
    result = gen_ray(*command, "--json")
    assert result.code == 0, result
    found = json.loads(result.out)
    assert (found["share"], found["k"], found["train_rows"], found["test_rows"]) == (0.2, 19, 300, 100)
    kinds = {row["kind"]: [] for row in found["results"]}
    for row in found["results"]:
        kinds[row["kind"]].append(row)
        assert row["minutes"] >= 0 and {"rmse", "mae", "accuracy"} <= row.keys()
        assert ("coverage" in row) == (row["method"] == "the model")
    assert list(kinds) == ["completely_at_random", "at_random", "not_at_random"]
    for same in kinds.values():
        assert len({row["cells"] for row in same}) == 1
        assert [row["method"] for row in same] == ["the model", "mean or mode", "MICE", "chain of boosted trees"]
    shown = gen_ray(*command, "--kind", "at_random")
    assert "chain of boosted trees" in shown.out and "RMSE" in shown.out and "at_random: MICE" in shown.err


def test_the_benchmark_of_imputation_needs_a_table(gen_ray: Callable[..., CommandResult], tmp_path: Path) -> None:
    artifact.write(tmp_path / "runs" / "toy-20260101-000000" / "artifact", model())
    command = ["bench", "impute", "toy-20260101-000000", "--storage", tmp_path]
    assert "holds image; this benchmark needs a model of a table" in gen_ray(*command).fault
    assert "'completely_at_random'" in gen_ray(*command, "--kind", "completly_at_random").fault
    assert "only where a YAML file is given" in gen_ray(*command, "training.epochs=1").fault


@pytest.fixture
def tiny(cluster: None, tmp_path: Path) -> list[object]:
    vae = ROOT / "configs" / "demo" / "digits-vae.yaml"
    return [vae, f"storage.root={tmp_path}", "family.net={name: mlp, hidden: [8]}", "--steps", 4, "--json"]


@pytest.mark.soak
def test_both_ways_of_reading_data_are_measured(gen_ray: Callable[..., CommandResult], tiny: list[object]) -> None:
    result = gen_ray("bench", "ingest", *tiny, "--rounds", 1)
    assert result.code == 0, result
    found = json.loads(result.out)
    assert list(found["ways"]) == ["memory", "stream"]
    for way in found["ways"].values():
        assert way["ratio"] == pytest.approx(way["images_per_second"] / found["trained_images_per_second"])
        assert 0 < way["waiting"] < 1 and way["ratio"] > 0


@pytest.mark.soak
def test_numbers_of_workers_are_compared_with_the_first(
    gen_ray: Callable[..., CommandResult], tiny: list[object]
) -> None:
    result = gen_ray("bench", "scaling", *tiny, "--rounds", 1, "--workers", 2, "--workers", 1)
    assert result.code == 0, result
    two, one = json.loads(result.out)["scaling"]
    assert (two["workers"], one["workers"], two["ratio"]) == (2, 1, 1.0)
    assert one["ratio"] == pytest.approx(one["images_per_second"] / two["images_per_second"])


@pytest.mark.soak
def test_a_sweep_is_compared_with_its_trainings(
    cluster: None, gen_ray: Callable[..., CommandResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the sweep is executed, in this process, so that it uses the session's Ray."""
    from gen_ray.bench.cluster import training

    done = list[str]()

    def here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        verb = command[2].removeprefix("pipelines.")
        done.append(verb)
        result = (
            gen_ray(verb, *command[3:])
            if verb == "sweep"
            else CommandResult(int("broken" in Path(command[3]).read_text()), "", "error: no")
        )
        return subprocess.CompletedProcess(command, result.code, result.out, result.err)

    monkeypatch.setattr(training.subprocess, "run", here)
    raw = yaml.safe_dump({**TINY, "scaling": {"cpus_per_worker": 1}})
    (tmp_path / "base.yaml").write_text(raw)
    space = {"family.latent_dim": {"choice": [2, 3]}}
    sweep = {"name": "pair", "experiment": "base.yaml", "space": space, "searcher": {"name": "grid"}}
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(sweep))
    result = gen_ray("bench", "sweep", tmp_path / "pair.yaml", "--json")
    assert result.code == 0, result
    found = json.loads(result.out)
    assert done == ["train", "train", "sweep", "train"], "one warm-up, and the sweep between the others"
    assert found["trials"] == 2 and found["ratio"] == found["sweep_seconds"] / found["trainings_seconds"]
    assert 0 < found["trial_overhead_seconds"] <= found["trial_overhead_seconds_highest"] < found["sweep_seconds"]
    failed = gen_ray("bench", "sweep", tmp_path / "pair.yaml", "name=broken")
    assert failed.code == 1 and failed.fault.startswith("error: train ")
