"""The training loop: an interrupted and resumed run equals an uninterrupted one."""

import math
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.plots.grids import grid
from gen_ray.engine.training.batches import InMemoryBatches
from gen_ray.engine.training.checkpoint_store import CheckpointStore, step_of
from gen_ray.engine.training.loop import VALIDATION_ROWS, StoppedError, fit, validate
from gen_ray.engine.training.session import LocalSession
from gen_ray.experiment import Experiment
from gen_ray.maths.noise import generator
from gen_ray.storage import manifest
from tests.engine.tiny_models import (
    FAMILIES,
    SPEC,
    KilledError,
    Ring,
    RingSession,
    SessionKilledAtStep5,
    experiment,
    images,
    session,
)

CLOCKED = ("train/images_per_second", "train/waiting_for_data")


def run(exp: Experiment, folder: Path | None, kind: type[LocalSession] = LocalSession) -> LocalSession:
    here = session(exp, folder, kind)
    fit(exp, exp.model(SPEC), here)
    return here


def every_step(family: str = "vae") -> Experiment:
    return experiment(
        family, checkpoint_every_seconds=0, log_every_steps=1, ema_decay=0.9, warmup_steps=3, decay="cosine"
    )


class Stopped(LocalSession):
    """A session that is asked to stop at the start of the fifth step."""

    checks = 0

    def stop_requested(self) -> bool:
        self.checks += 1
        return self.checks == 5


def of(history: list[tuple[int, dict[str, float]]]) -> list[tuple[int, str, float]]:
    return [(step, k, v) for step, metrics in history for k, v in metrics.items() if k not in CLOCKED]


def test_a_stopped_training_saves_a_checkpoint_and_resumes_from_it(tmp_path: Path) -> None:
    exp = experiment("vae", checkpoint_every_seconds=1e6)
    with pytest.raises(StoppedError, match="stopped at step 5 of 10: argument `resume`"):
        run(exp, tmp_path / "halves", Stopped)
    assert [p.name for p in (tmp_path / "halves").glob("step-*")] == ["step-000000005"]
    run(exp, tmp_path / "halves")
    run(exp, tmp_path / "whole")
    assert manifest.read(tmp_path / "halves" / "step-000000010") == manifest.read(tmp_path / "whole" / "step-000000010")


def test_training_up_to_an_epoch_continues_bit_for_bit_or_with_new_settings(tmp_path: Path) -> None:
    whole = run(every_step(), tmp_path / "whole")
    for folder in ("halves", "changed"):
        exp = every_step()
        here = session(exp, tmp_path / folder)
        fit(exp, exp.model(SPEC), here, until_epoch=1)
        assert max(step for step, _ in here.history) == 5 and "validation/loss_nats" in here.history[-1][1]
        fit(exp, exp.model(SPEC), here, until_epoch=1)
        assert max(step for step, _ in here.history) == 5, "finished epochs are not trained again"
    halves = run(every_step(), tmp_path / "halves")
    assert of(halves.history) == [entry for entry in of(whole.history) if entry[0] > 5]
    settings = {"learning_rate": 0.03, "weight_decay": 0.5, "betas": (0.5, 0.7)}
    run(experiment("vae", checkpoint_every_seconds=0, **settings), tmp_path / "changed")
    [group] = torch.load(tmp_path / "changed/step-000000010/optimizer.pt", weights_only=True)["param_groups"]
    assert {"learning_rate": group["lr"], "weight_decay": group["weight_decay"], "betas": group["betas"]} == settings


@pytest.mark.parametrize("family", FAMILIES)
def test_five_steps_twice_equal_ten_to_the_bit(family: str, tmp_path: Path) -> None:
    """SHA-256 of net, averages, optimizer and position; 40 rows in batches of 8 are 5 steps an epoch."""
    exp = every_step(family)
    whole = run(exp, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(exp, tmp_path / "halves", SessionKilledAtStep5)
    assert max(p.name for p in (tmp_path / "halves").iterdir()) == "step-000000005"
    torch.manual_seed(12345)  # the global generator must not matter
    resumed = run(exp, tmp_path / "halves")
    last = [manifest.read(tmp_path / name / "step-000000010") for name in ("whole", "halves")]
    assert last[0] == last[1] and len(last[0]) == 6
    snapshots = [sorted((tmp_path / name / "averages").iterdir()) for name in ("whole", "halves")]
    assert len(snapshots[0]) == 8
    assert [manifest.read(f) for f in snapshots[0]] == [manifest.read(f) for f in snapshots[1]]
    assert of(resumed.history) == [entry for entry in of(whole.history) if entry[0] > 5]
    assert (resumed.pictures["samples"] == whole.pictures["samples"]).all()


def test_the_best_value_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worsening = iter([1.0, 2.0])
    monkeypatch.setattr("gen_ray.engine.training.loop.validate", lambda *args: next(worsening))
    with pytest.raises(KilledError):
        run(every_step(), tmp_path, SessionKilledAtStep5)
    resumed = of(run(every_step(), tmp_path).history)
    assert [v for _, k, v in resumed if k.endswith("validation_loss_nats")] == [1.0]
    assert [v for _, k, v in resumed if k == "validation/loss_nats"] == [2.0]


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    exp = every_step()
    run(exp, tmp_path)
    again = run(exp, tmp_path)
    assert again.history == [] and again.pictures == {}


def test_training_lowers_the_validation_loss() -> None:
    exp = experiment("vae", epochs=30)
    history = of(run(exp, None).history)
    validation = [v for _, k, v in history if k == "validation/loss_nats"]
    assert len(validation) == 30 and validation[-1] < 0.9 * validation[0]
    best = [v for _, k, v in history if k == "best/validation_loss_nats"]
    assert best == [min(validation[: i + 1]) for i in range(30)]


def test_the_log_is_the_mean_over_its_window() -> None:
    fine, coarse = (of(run(experiment(log_every_steps=every), None).history) for every in (1, 4))
    each = [v for _, k, v in fine if k == "train/loss_nats"]
    found = [(step, v) for step, k, v in coarse if k == "train/loss_nats"]
    assert [step for step, _ in found] == [4, 8, 10]
    assert [v for _, v in found] == pytest.approx([sum(each[:4]) / 4, sum(each[4:8]) / 4, sum(each[8:]) / 2])


def test_events_happen_at_the_ends_of_epochs() -> None:
    """With 16 of 40 rows per step, epochs end in steps 3 (2.5), 5, 8 (7.5), 10, 13 (12.5), …"""
    exp = experiment(batch_size=16, epochs=6, validate_every_epochs=2, sample_every_epochs=4)

    class Watching(LocalSession):
        def log_image(self, name: str, picture: object, step: int) -> None:
            shown.append(step)

    shown: list[int] = []
    history = of(run(exp, None, Watching).history)
    assert [step for step, k, _ in history if k == "validation/loss_nats"] == [5, 10, 15]
    assert shown == [10, 15]


def test_texts_are_shown_as_text_and_images_as_pictures_at_the_same_steps() -> None:
    spec = DataSpec(name="play", kind="tokens", shape=(6,), levels=4, alphabet="abc\n")
    exp = experiment("tokens", epochs=4, sample_every_epochs=3)
    shown: list[tuple[str, int, str]] = []

    class Watching(LocalSession):
        def log_image(self, name: str, picture: np.ndarray, step: int) -> None:
            shown.append((name, step, "picture"))
            super().log_image(name, picture, step)

        def log_text(self, name: str, text: str, step: int) -> None:
            shown.append((name, step, "text"))
            super().log_text(name, text, step)

    def trained(spec: DataSpec) -> LocalSession:
        shown.clear()
        x = torch.randint(4, (40, *spec.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        here = Watching({split: InMemoryBatches(x, batch_size=8) for split in ("train", "validation")})
        fit(exp, exp.model(spec), here)
        return here

    here = trained(spec)
    assert shown == [("samples", 15, "text"), ("samples", 20, "text")] and not here.pictures
    numbers, texts = zip(*re.findall(r"----- (\d)\n([abc\n]{6})\n", here.texts["samples"]), strict=True)
    assert numbers == tuple("01234567") and len(set(texts)) > 1
    assert len(here.texts["samples"]) == 8 * (8 + 6 + 1)
    here = trained(DataSpec(name="grey", kind="image", shape=(1, 2, 3), levels=4))
    assert shown == [("samples", 15, "picture"), ("samples", 20, "picture")] and not here.texts
    trained(spec.model_copy(update={"alphabet": ""}))
    assert shown == []


@pytest.mark.parametrize("family", ["vae", "ddpm-learned"])
def test_the_picture_of_progress_is_a_grid_of_64_samples(family: str) -> None:
    exp, here = experiment(family), session(experiment(family))
    bound = exp.model(SPEC)
    net = fit(exp, bound, here).eval()
    fitted = bound.fitted(net)
    chain = fitted.chain(next(iter(fitted.samplers())))
    samples = generate(net, chain, 64, seed=exp.training.seed, device=here.device)
    assert np.array_equal(here.pictures["samples"], grid(samples, levels=17))


@pytest.mark.parametrize("family", FAMILIES)
def test_validation_is_the_same_for_any_number_of_ranks(family: str) -> None:
    exp = experiment(family)
    bound = exp.model(SPEC)
    torch.manual_seed(0)
    net = bound.build_net().eval()
    single = validate(net, bound, exp, session(exp))
    assert single == validate(net, bound, exp, session(exp))
    for ranks in (2, 3, 4):
        ring, many = Ring(ranks), experiment(family, workers=ranks, batch_size=12)

        def work(rank: int, ring: Ring = ring, many: Experiment = many) -> float:
            return validate(net, bound, many, RingSession(ring, rank, many))

        assert ring.run(work) == pytest.approx([single] * ranks, rel=1e-12)
    x = images(700, seed=1)
    with torch.no_grad():
        losses = [
            bound.loss(net, part, generator(0, 1 << 40, index), step=1 << 40).total
            for index, part in enumerate(x.split(VALIDATION_ROWS))
        ]
    assert single == pytest.approx(float(torch.cat(losses).double().mean()), rel=1e-6)
    assert math.isfinite(single)


def test_a_batch_larger_than_the_data_trains_on() -> None:
    exp = experiment(batch_size=64, epochs=4)
    assert [step for step, k, _ in of(run(exp, None).history) if k == "train/loss_nats"] == [2]


def without_improvement(folder: Path, epochs: int, **training: object) -> LocalSession:
    """Train with given validation losses in place of measured ones."""
    exp = experiment("vae", epochs=epochs, checkpoint_every_seconds=1e6, **training)
    here = session(exp, folder)
    losses = iter([3.0, 2.0, 2.5, 2.25, 2.125, 1.0, 0.5])
    with mock.patch("gen_ray.engine.training.loop.validate", side_effect=lambda *_: next(losses)):
        fit(exp, exp.model(SPEC), here)
    return here


def test_training_ends_after_patience_validations_without_improvement(tmp_path: Path) -> None:
    """One epoch is five steps; the second validation, after step 10, has the lowest loss."""
    here = without_improvement(tmp_path, epochs=7, patience=3)
    assert max(step for step, _ in here.history) == 25
    store = CheckpointStore(tmp_path)
    assert (step_of(store.last()), step_of(store.best())) == (25, 10), "the best state is saved at once"
    exp = experiment("vae", epochs=7, patience=3)
    again = session(exp, tmp_path)
    fit(exp, exp.model(SPEC), again)
    assert again.history == [], "a training that patience ended is not continued by a restart"
    more = experiment("vae", epochs=7, patience=4)
    fit(more, more.model(SPEC), again)
    assert max(step for step, _ in again.history) > 25, "more patience continues it"


def test_without_patience_all_epochs_are_trained(tmp_path: Path) -> None:
    here = without_improvement(tmp_path, epochs=7)
    assert max(step for step, _ in here.history) == 35


def test_patience_selects_the_best_checkpoint_unless_told_otherwise() -> None:
    assert experiment("vae").evaluated_checkpoint == "last"
    assert experiment("vae", patience=2).evaluated_checkpoint == "best"
