"""Output of the command line: fast help, lists, and one line for every wrong call."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gen_ray.datasets.prepare import prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.inference import artifact
from gen_ray.experiment import load
from gen_ray.maths.sampler import Sampler
from pipelines.terminal import show_chains
from tests.conftest import ROOT, CommandResult

GROUPS = ["schedule", "latent", "figure", "bench"]
VERBS = ["demo", "prepare", "train", "sweep", "evaluate", "sample", "impute", "score", "compare", "doctor", *GROUPS]
DEMO = ROOT / "configs" / "demo"
Run = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a storage.root with one finished but untrained run of each family."""
    import torch

    root = tmp_path_factory.mktemp("storage")
    data: Prepared = prepare("digits", out=root / "data")
    for name, net in {"vae": "family.net.hidden=[8]", "ddpm": "family.net={name: mlp, width: 8, depth: 1}"}.items():
        experiment = load(DEMO / f"digits-{name}.yaml", [f"storage.root={root}", net])
        torch.manual_seed(0)
        family = experiment.model(data.spec)
        meta = artifact.describe(data.spec, data.fingerprint, run_id=f"{name}-1", steps=0)
        model = artifact.Model(experiment=experiment, family=family, net=family.build_net().eval(), meta=meta)
        artifact.write(root / "runs" / f"{experiment.name}-20260101-000000" / "artifact", model)
    return root


# ---- help ---------------------------------------------------------------------------------------------------------


def test_help_names_every_verb_and_every_verb_has_help(gen_ray: Run) -> None:
    for words in ([], ["--help"]):
        result = gen_ray(*words)
        assert result.code == 0 and not result.err and all(f"  {verb} " in result.out for verb in VERBS)
    for verb in [*VERBS, "bench train", "latent encode", "figure latent-dims", "schedule add", "schedule run"]:
        result = gen_ray(*verb.split(), "--help")
        assert result.code == 0 and "Usage: " in result.out and not result.err


@pytest.mark.parametrize("command", [["-m", "pipelines.cli", "train"], ["-m", "pipelines.sample"]])
def test_help_does_not_wait_for_torch(command: list[str]) -> None:
    traced = [sys.executable, "-X", "importtime", *command, "--help"]
    done = subprocess.run(traced, cwd=ROOT, capture_output=True, text=True, timeout=60)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "Usage: " in done.stdout
    assert "typer" in imported and not {"torch", "ray", "mlflow", "numpy", "sklearn"} & imported


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train"], "'config'"),
        (["train", "x.yaml", "--dryrun"], "--dry-run"),
        (["sample", "m", "-n", "0"], "'-n'"),
        (["sample", "m", "-n", "many"], "valid integer"),
        (["sample", "m", "--seed", 2**64], "'--seed'"),
        (["sample", "m", "--steps", "0"], "'--steps'"),
        (["doctor", "me"], "(me)"),
        (["bench"], "Missing command"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(gen_ray: Run, words: list[object], expected: str) -> None:
    result = gen_ray(*words)
    assert result.code == 2 and expected in result.fault and "--help" in result.fault and not result.out


# ---- train ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_resolved_config_which_loads_again(gen_ray: Run, tmp_path: Path) -> None:
    result = gen_ray("train", DEMO / "digits-vae.yaml", "training.epochs=3", "--dry-run")
    assert result.code == 0 and not result.err
    (tmp_path / "shown.yaml").write_text(result.out)
    shown = load(tmp_path / "shown.yaml")
    assert shown == load(DEMO / "digits-vae.yaml", ["training.epochs=3"]) and shown.training.epochs == 3
    assert yaml.safe_load(result.out)["family"]["name"] == "vae"
    assert gen_ray("train", tmp_path / "shown.yaml", "--dry-run").out == result.out


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("image_folder:nowhere", "nowhere: no such folder"),
        ("text:nowhere.txt", "nowhere.txt: no such file"),
        (
            "parquet:nowhere/*.parquet",
            f"nowhere/*.parquet: no Parquet file by this name or pattern in {Path.cwd()}; "
            "data.root names another folder",
        ),
    ],
)
def test_a_dry_run_notes_a_source_that_this_machine_cannot_read(gen_ray: Run, source: str, fault: str) -> None:
    result = gen_ray("train", DEMO / "digits-vae.yaml", f"data.source={source}", "--dry-run")
    assert result.code == 0 and f"source: {source}" in result.out
    assert result.err == f"note: data.source={source} cannot be read on this machine: {fault}\n"


def test_debug_shows_the_traceback_that_is_otherwise_hidden(
    gen_ray: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gen_ray.errors import UserError

    assert gen_ray("train", tmp_path / "nope.yaml", "--dry-run").code == 2
    monkeypatch.setattr(sys, "argv", ["gen-ray", "train", str(tmp_path / "nope.yaml"), "--debug"])
    from pipelines import cli

    with pytest.raises(UserError):  # the interpreter would now print the traceback
        cli.main()


def test_a_bug_is_reported_in_one_line_with_code_1(gen_ray: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr("gen_ray.experiment.load", broken)
    result = gen_ray("train", DEMO / "digits-vae.yaml")
    assert result.code == 1 and result.fault.startswith("error: ZeroDivisionError: first") and "--debug" in result.fault


def test_an_interrupt_is_one_line_or_none_and_code_130(gen_ray: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gen_ray.experiment.load", interrupted)
    result = gen_ray("train", DEMO / "digits-vae.yaml")
    assert result.code == 130 and "Traceback" not in result.err and len(result.err.splitlines()) <= 1


# ---- sample, compare, doctor, prepare --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vae", "ddpm"])
def test_samples_are_an_image_or_array_and_depend_on_the_seed_only(
    gen_ray: Run, models_root: Path, tmp_path: Path, family: str
) -> None:
    def draw(name: str, *more: object) -> Path:
        out = tmp_path / name
        result = gen_ray("sample", f"digits-{family}", "--storage", models_root, "-n", 5, "--out", out, *more)
        assert result.code == 0 and not result.err and str(out) in result.out, result
        return out

    assert Image.open(draw("a.png")).size[0] > 56 * 2
    first, again, other = (
        np.load(draw(f"{name}.npz", "--seed", seed))["samples"] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.shape == (5, 1, 8, 8) and first.max() <= 16
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_steps_without_a_sampler_apply_to_the_default_sampler(gen_ray: Run, models_root: Path, tmp_path: Path) -> None:
    options = ["--storage", models_root, "-n", 1, "--out", tmp_path / "a.png"]
    assert "nfe 7," in gen_ray("sample", "digits-ddpm", "--steps", 7, *options).out
    assert "nfe 9," in gen_ray("sample", "digits-ddpm", "--sampler", "ddim:eta=1", "--steps", 9, *options).out
    result = gen_ray("sample", "digits-vae", "--steps", 7, *options)
    assert result.code == 2 and "no effect for vae" in result.fault


def listed(out: str) -> dict[str, list[str]]:
    """Return the cells of each row of a table by the first cell."""
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in out.splitlines() if line[:1] == "│"]
    return {name: cells for name, *cells in rows}


def test_samplers_are_listed(gen_ray: Run, models_root: Path) -> None:
    result = gen_ray("sample", "digits-ddpm", "--storage", models_root, "--list-samplers")
    assert (
        result.code == 0
        and not result.err
        and listed(result.out)
        == {
            "ddim": ["Song et al. 2021, eq. 12", "eta=0…1", "1", "50", "1", "50"],
            "ancestral": ["Ho et al. 2020, alg. 2", "", "1", "100", "1", "100"],
            "dpmpp_2m": ["Lu et al. 2022, alg. 2", "", "1", "20", "1", "20"],
            "heun": ["Karras et al. 2022, alg. 1, its correction's gain at most 1/2", "", "1", "10", "2", "19"],
        }
    )
    assert "--sampler NAME or NAME:option=value" in result.out


def test_the_steps_of_an_adaptive_sampler_are_shown_as_varies(capsys: pytest.CaptureFixture[str]) -> None:
    takes = {"rtol": (1e-5, 0.01), "atol": (0, 1.0)}
    solver = Sampler(default_steps=1, nfe_per_step=1, adaptive=True, summary="A. & B. 1980", options=takes)
    show_chains("sampler", {"adaptive": solver})
    options = "rtol=1e-05…0.01, atol=0…1"
    assert listed(capsys.readouterr().out) == {"adaptive": ["A. & B. 1980", options, "1", "1", "varies", "varies"]}


def test_on_a_narrow_terminal_only_prose_is_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    takes = {"times": (1, 20), "correctors": (1, 100), "temperature": (0, 100)}
    show_chains(
        "imputer", {"replacement": Sampler(default_steps=250, nfe_per_step=10, summary="words " * 20, options=takes)}
    )
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= 100 and out.count("words") == 20 and "…" in out
    assert all(word in out for word in ("replacement", "2500", "temperature=0…100"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sample", "digits-vea"], "did you mean 'digits-vae-20260101-000000'"),
        (["evaluate", "digits-vea"], "did you mean 'digits-vae-20260101-000000'"),
        (["sample", "digits-vae", "--out", "a.gif"], ".png"),
        (["sample", "digits-vae", "--out", "nowhere/a.png"], "nowhere/a.png"),
        (["sample", "digits-vae", "--sampler", "ddim"], "mean"),
        (["sample", "digits-ddpm", "--sampler", "ddim:eta=x"], "'x' is not a number"),
        (["sample", "digits-ddpm", "--steps", "100000"], "takes 1 … "),
        (["evaluate", "digits-vae", "--reference", "tets"], "did you mean 'test'"),
        (["evaluate", "digits-vae", "training.epochs=3"], "no effect on a trained model"),
        (["evaluate", "digits-vae", "evaluation.sampler=ddim"], "evaluation.sampler"),
        (["evaluate", "digits-vae", "evaluation.stesp=3"], "did you mean 'steps'"),
    ],
)
def test_a_wrong_model_is_refused_with_the_available_ones(
    gen_ray: Run, models_root: Path, words: list[str], expected: str
) -> None:
    result = gen_ray(*words, "--storage", models_root)
    assert result.code == 2 and expected in result.fault


def test_an_altered_artifact_is_refused_with_the_name_of_the_file(
    gen_ray: Run, models_root: Path, tmp_path: Path
) -> None:
    import shutil

    folder = Path(
        shutil.copytree(models_root / "runs" / "digits-vae-20260101-000000" / "artifact", tmp_path / "artifact")
    )
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    result = gen_ray("sample", folder, "--out", tmp_path / "a.png")
    assert result.code == 2 and f"{folder}/weights.safetensors" in result.fault and not (tmp_path / "a.png").exists()


def test_prepare_prints_the_folder_and_reuses_it(gen_ray: Run, tmp_path: Path) -> None:
    first, again = (gen_ray("prepare", "digits", "--out", tmp_path) for _ in range(2))
    assert first.code == 0 and first == again and not first.err
    folder = Path(first.out.splitlines()[0])
    assert Prepared.load(folder).fingerprint.startswith(first.out.split("fingerprint ")[1].split()[0])
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [folder]


def test_prepare_lists_the_columns_of_a_table(gen_ray: Run, tmp_path: Path) -> None:
    rows = [f"{i},{i % 7}.5,{'?' if i % 4 == 0 else 'ab'[i % 2]}" for i in range(200)]
    (tmp_path / "people.csv").write_text("\n".join(["id,size,kind", *rows]))
    words = ["prepare", f"csv:{tmp_path}/people.csv", "--out", tmp_path / "out"]
    listed = gen_ray(*words, "--dry-run")
    assert listed.code == 0 and "2 of 3 columns" in listed.out and not (tmp_path / "out").exists()
    assert re.search(r"size +. number +. +7 . +0\.0 ", listed.out)
    assert "left out: an identifier" in listed.out
    done = gen_ray(*words, "--option", "target=kind")
    assert done.code == 0 and "columns: 1 number, 1 category, target kind; 1" in done.out
    assert "column 'id' is left out: an identifier" in done.out


def test_prepare_shows_the_columns_under_the_settings_of_an_experiment(gen_ray: Run, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("\n".join(["zip,size", *[f"{i % 3},{i % 7}.5" for i in range(200)], "1,x"]))
    experiment = tmp_path / "people.yaml"
    experiment.write_text(
        f"name: people\nfamily: discrete\nstorage: {{root: {tmp_path}/runs}}\n"
        f"data: {{source: 'csv:people.csv', root: {tmp_path}, on_bad_row: 'skip:1', options: "
        "{columns: {zip: {type: category}, size: {type: number}}}}\n"
    )
    listed = gen_ray("prepare", experiment, "--dry-run")
    assert listed.code == 0 and re.search(r"zip +. category ", listed.out) and not (tmp_path / "runs").exists()
    assert "1 bad row, the first: people.csv, row 200: 'x' in column 'size' is not a number" in listed.out
    assert "they will be left out" in listed.out
    changed = gen_ray("prepare", experiment, "--dry-run", "--option", "columns.zip.type=number")
    assert re.search(r"zip +. number ", changed.out)
    done = gen_ray("prepare", experiment)
    assert done.code == 0 and Path(done.out.splitlines()[0]).parent == tmp_path / "runs" / "data"
    done = gen_ray("prepare", experiment, "--storage", tmp_path / "other")
    assert done.code == 0 and Path(done.out.splitlines()[0]).parent == tmp_path / "other" / "data"


@pytest.mark.parametrize("skip", [(), ("--on-bad-row", "skip:1")])
def test_a_dry_run_reports_bad_rows(gen_ray: Run, tmp_path: Path, skip: tuple[str, ...]) -> None:
    lines = [f"{i % 7}.5,{i % 3}" for i in range(200)]
    (tmp_path / "people.csv").write_text("\n".join(["a,b", *lines[:50], "1,2,3", *lines[50:], "2"]))
    listed = gen_ray("prepare", f"csv:{tmp_path}/people.csv", "--dry-run", *skip)
    assert listed.code == 0
    assert "2 bad rows, the first: people.csv, row 50: 3 cells" in listed.out
    assert "--on-bad-row skip:2 leaves them out" in listed.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["digit"], "did you mean 'digits'"),
        (["digits:x"], "write digits"),
        (["some/rows.csv.gz"], "write csv:some/rows.csv.gz"),
        (["rows.parquet"], "write parquet:rows.parquet"),
        (["nowhere.yaml"], "nowhere.yaml: No such file"),
        (["digits", "--option", "length=3"], "no effect"),
        (["digits", "--option", "levels=99"], "no effect"),
        (["digits", "--option", "levles=9"], "did you mean 'levels'"),
        (["digits", "--on-bad-row", "ignore"], "skip:"),
        (["image_folder:nowhere"], "nowhere"),
        (["text:nowhere.txt"], "nowhere.txt"),
        (["parquet:nowhere/*.parquet"], "nowhere"),
    ],
)
def test_a_wrong_source_is_refused(gen_ray: Run, tmp_path: Path, words: list[str], expected: str) -> None:
    result = gen_ray("prepare", *words, "--out", tmp_path / "out")
    assert result.code == 2 and expected in result.fault


def test_compare_without_runs_names_the_searched_store(gen_ray: Run, storage: Path) -> None:
    result = gen_ray("compare", "never", "--storage", storage)
    assert result.code == 0 and "no finished runs in experiment 'never'" in result.out and "mlflow ui" in result.out


def test_compare_selects_runs_and_writes_a_self_contained_page(gen_ray: Run, tmp_path: Path) -> None:
    import base64

    from gen_ray.tracking.runs import TrackedRun
    from gen_ray.tracking.store import Store

    store = Store.of(None, "page", tmp_path)
    for name, family, bits in (("a<b>", "vae", 2.0), ("c", "ddpm", 1.0)):
        run = TrackedRun(store, name, name=name, params={"family.name": family}, tags={})
        run.log({"eval/bits_per_dim": bits, "eval/bits_per_dim_standard_error": 0.1}, 1)
        run.log_image("evaluation_samples", np.full((4, 4, 3), 7, np.uint8), 1)
        run.close("FINISHED")
    page = tmp_path / "page.html"
    result = gen_ray("compare", "page", "--storage", tmp_path, "--html", page)
    assert result.code == 0 and f"report: {page}" in result.out
    text = page.read_text()
    assert text.index("<td>c</td>") < text.index("<td>a&lt;b&gt;</td>") and "<b>" not in text and "http" not in text
    [first, _] = [part.split('"')[0] for part in text.split("data:image/png;base64,")[1:]]
    assert base64.b64decode(first).startswith(b"\x89PNG")
    one = gen_ray("compare", "page", "--storage", tmp_path, "--where", "family=vae")
    assert "a<b>" in one.out and " c " not in one.out
    none = gen_ray("compare", "page", "--storage", tmp_path, "--where", "family=vae", "--where", "family=ddpm")
    assert none.code == 0 and "no finished runs with family=vae with family=ddpm" in none.out
    wrong = gen_ray("compare", "page", "--storage", tmp_path, "--where", "familly=vae")
    assert wrong.code == 2 and "did you mean 'family'" in wrong.fault
    unwritable = gen_ray("compare", "page", "--storage", tmp_path, "--html", tmp_path / "no" / "page.html")
    assert unwritable.code == 2 and "cannot be written" in unwritable.fault


@pytest.mark.parametrize("content", [b"not a database but some text" * 40, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_store_that_is_not_a_database_is_refused_in_one_line(content: bytes, gen_ray: Run, tmp_path: Path) -> None:
    """MLflow passes on the first database error, including that of a full disk, as SQLAlchemy raises it."""
    (tmp_path / "mlflow.db").write_bytes(content)
    result = gen_ray("compare", "page", "--storage", tmp_path)
    assert result.code == 1 and "(a bug?" not in result.fault and "mlflow.db" in result.fault


def test_doctor_reports_and_leaves_nothing(gen_ray: Run, tmp_path: Path) -> None:
    result = gen_ray("doctor", "--storage", tmp_path / "none")
    assert result.code == 0 and all(line[:3] in ("ok ", "?? ") for line in result.out.splitlines())
    assert all(word in result.out for word in ("ray: ", "torch: ", "mlflow: ", "cores"))
    assert not (tmp_path / "none").exists()


def test_doctor_checks_the_store_of_the_environment_variable(
    gen_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/there.db")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("for all to read")
    result = gen_ray("doctor", "--storage", "s3://bucket/runs")
    assert "??  token: " in result.out and "chmod 600" in result.out
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = gen_ray("doctor", "--storage", "s3://bucket/runs")
    assert result.code == 1 and "NO  MLflow: tracking.uri: is needed" in result.out
