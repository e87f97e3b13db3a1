"""The runs and settings that a resumed training continues."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gen_ray import resumption, run_directory
from gen_ray.datasets.prepared import Prepared
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment, parse

EPOCHS = "training.epochs"


def data(fingerprint: str = "1" * 64, rows: int = 10) -> Prepared:
    spec = DataSpec(name="digits", kind="image", shape=(1, 8, 8), levels=17)
    return Prepared(
        folder=Path("x"), spec=spec, rows={"train": rows}, fingerprint=fingerprint, source="digits", files={}
    )


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Experiment]:
    def experiment(**training: Any) -> Experiment:
        return parse({"name": "a", "family": "vae", "storage": {"root": str(tmp_path)}, "training": training})

    return experiment


def saved(experiment: Experiment, second: int, *, started: bool = True, trained: int | None = None) -> str:
    """Create a run folder: with a checkpoint if started, with the artifact of some epochs if trained."""
    home = run_directory.save(experiment, f"a-20260101-{second:06d}")
    resumption.keep_data(home, data())
    if started:
        (home / "checkpoints" / "step-000000005").mkdir(parents=True)
    if trained:
        training = experiment.training.model_copy(update={"epochs": trained})
        done = experiment.model_copy(update={"training": training})
        (home / "artifact").mkdir()
        (run_directory.save(done, f"{home.name}/artifact") / "meta.json").write_text("{}")
    return home.name


def test_only_unfinished_runs_of_the_same_name_are_resumed(make: Callable[..., Experiment], tmp_path: Path) -> None:
    experiment = make()
    for run_id in ("a-b-20260101-000000", "a-nothing", "b-20260101-000000", "a-20260101-000009"):
        (tmp_path / "runs" / run_id).mkdir(parents=True)  # the last run died before it wrote its settings
    with pytest.raises(UserError, match=r"`resume`: no unfinished run named 'a' in .*/runs$"):
        resumption.run(experiment, data())
    done = saved(experiment, 1, trained=40)
    longer = rf"no unfinished run named 'a' in .*; {done} is finished: training.epochs above 40 trains it for longer$"
    with pytest.raises(UserError, match=longer):
        resumption.run(experiment, data())
    with pytest.raises(
        UserError, match=rf"finished and has other settings: training.seed was 0 in {done}, now it is 4"
    ):
        resumption.run(make(seed=4, epochs=50), data())
    name = saved(experiment, 0)
    assert resumption.run(experiment, data()).home.name == name


def test_a_run_of_an_earlier_version_is_resumed_although_keys_were_renamed(make: Callable[..., Experiment]) -> None:
    experiment = make(gradient_accumulation_steps=2, activation_checkpointing=True)
    file = run_directory.folder(experiment, saved(experiment, 1)) / run_directory.CONFIG
    text = file.read_text()
    for earlier, present in (("accumulate", "gradient_accumulation_steps"), ("recompute", "activation_checkpointing")):
        assert present in text
        text = text.replace(present, earlier)
    file.write_text(text)
    assert resumption.run(experiment, data()).home == file.parent
    with pytest.raises(UserError, match=r"training\.gradient_accumulation_steps was 2"):
        resumption.run(make(activation_checkpointing=True), data())


def test_a_run_that_never_started_does_not_hide_one_that_did(make: Callable[..., Experiment]) -> None:
    saved(make(), 1)
    name = saved(make(), 2)
    saved(make(), 3, started=False)
    assert resumption.run(make(), data()).home.name == name
    other = saved(make(seed=1), 4, started=False)  # only this run has the given settings
    assert resumption.run(make(seed=1), data()).home.name == other


def test_other_settings_are_refused_by_key(make: Callable[..., Experiment]) -> None:
    name = saved(make(), 1)
    with pytest.raises(UserError, match=rf"`resume`: training\.seed was 0 in {name}, now it is 4"):
        resumption.run(make(seed=4), data())


@pytest.mark.parametrize("accept", [False, True])
def test_other_data_are_refused_unless_accepted(accept: bool, make: Callable[..., Experiment]) -> None:
    name, grown = saved(make(), 1), data("2" * 64, rows=12)
    if not accept:
        with pytest.raises(
            UserError, match=rf"{name} was trained on: it was 111.* \(10 rows\), now 2+ .*`accept_data`"
        ):
            resumption.run(make(), grown)
        return
    resumed = resumption.run(make(), grown, accept_data=True)
    assert "goes on with other data" in resumed.lines[0] and "data.changed_on_resume" in resumed.tags


@pytest.mark.parametrize("change", [{"levels": 16}, {"shape": (1, 9, 9)}, {"kind": "tokens"}, {"alphabet": "ab"}])
def test_data_that_the_weights_do_not_fit_are_not_accepted(make: Callable[..., Experiment], change: Any) -> None:
    """Regression: text with a new character failed in the workers; another alphabet of the same size was accepted."""
    name, other = saved(make(), 1), data("2" * 64)
    other = replace(other, spec=other.spec.model_copy(update=change))
    with pytest.raises(UserError, match=rf"`accept_data`: .*{next(iter(change))} of the data was .*{name} do not fit"):
        resumption.run(make(), other, accept_data=True)
    old = Path(make().storage.root) / "runs" / name / resumption.DATA
    old.write_text('{"fingerprint": "1", "rows": {}}')  # written by a version that did not store the kind of data
    assert resumption.run(make(), other, accept_data=True).lines


@pytest.mark.parametrize(
    ("decay", "meaning"),
    [
        ("constant", "the learning rate does not change"),
        ("cosine", "from here the learning rate is that of a run of 60 epochs"),
        ("linear", "from here the learning rate is that of a run of 60 epochs"),
    ],
)
@pytest.mark.parametrize("trained", [None, 40])
def test_epochs_may_be_raised_and_the_effect_is_stated(
    decay: str, meaning: str, trained: int | None, make: Callable[..., Experiment]
) -> None:
    name = saved(make(decay=decay), 1, trained=trained)
    resumed = resumption.run(make(decay=decay, epochs=60), data())
    assert resumed.home.name == name and resumed.tags == {f"final.{EPOCHS}": "60"}
    assert f"{EPOCHS} 40 → 60; training.decay={decay}: {meaning}" in resumed.lines[0]
    run_directory.save(make(decay=decay, epochs=60), name)  # interrupted once more
    assert resumption.run(make(decay=decay, epochs=60), data()).lines == []
    with pytest.raises(UserError, match="may be raised, not lowered"):
        resumption.run(make(decay=decay, epochs=59), data())


DAMAGED = [
    *(b"", b"- a\n", b"\0", b"name: [a", b"\xff\xfe", b"name: a\nfamily: vae\ntraining: {old_key: 1}\n"),
    *(b"name: a\n", b"[" * 500),
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("damaged_file", ["config.yaml", "artifact/config.yaml"])
def test_a_run_that_cannot_be_read_does_not_block_another(
    make: Callable[..., Experiment], tmp_path: Path, content: bytes, damaged_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "runs" / saved(make(), 1, trained=40) / damaged_file
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"no unfinished run .* that can be read; {file}") as caught:
        resumption.run(make(), data())
    assert "\n" not in str(caught.value)
    name = saved(make(), 2)
    assert resumption.run(make(), data()).home.name == name
    assert f"{file.parents[damaged_file.count('/')].name} is not resumed: {file}" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": "1", "rows": 3}', "[" * 5000, "\xff"])
@pytest.mark.parametrize("accept", [False, True])
def test_a_damaged_record_of_the_data_is_named(
    make: Callable[..., Experiment], tmp_path: Path, content: str, accept: bool
) -> None:
    file = tmp_path / "runs" / saved(make(), 1) / "data.json"
    file.write_text(content, encoding="latin-1")
    if accept:
        assert f"{file}: is damaged" in resumption.run(make(), data(), accept_data=True).lines[0]
        return
    with pytest.raises(UserError, match=rf"{file}: is damaged .*; argument `accept_data` continues") as caught:
        resumption.run(make(), data())
    assert "\n" not in str(caught.value)


def test_all_data_sets_of_a_sweep_are_compared(tmp_path: Path) -> None:
    sets = data("1" * 64), data("2" * 64)
    resumption.keep_data(tmp_path, *sets)
    resumption.check_data(resumption.Resumed(tmp_path), *sets, accept_data=False)
    other, third = data("3" * 64, rows=12), data("4" * 64)
    with pytest.raises(UserError, match=r"it was 222.* \(10 rows\), now 333"):
        resumption.check_data(resumption.Resumed(tmp_path), sets[0], other, accept_data=False)
    resumed = resumption.Resumed(tmp_path)
    resumption.check_data(resumed, third, other, accept_data=True)
    assert len(resumed.lines) == 2
    assert [line[:12] for line in resumed.tags["data.changed_on_resume"].split("; ")] == ["1" * 12, "2" * 12]
    wide = replace(other, spec=other.spec.model_copy(update={"levels": 18}))
    with pytest.raises(UserError, match="levels of the data was 17, now it is 18"):
        resumption.check_data(resumption.Resumed(tmp_path), sets[0], wide, accept_data=True)
    with pytest.raises(UserError, match="is damaged"):
        resumption.check_data(resumption.Resumed(tmp_path), sets[0], accept_data=False)
