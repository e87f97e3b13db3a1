"""gen-ray promote refuses models that have learned their training rows by heart, unless it is forced to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gen_ray.engine.evaluation.copy_gate import MAX_GAP, copying_reason, has_copy_figures
from gen_ray.engine.evaluation.evaluate import copy_report, likelihood
from gen_ray.engine.inference import artifact
from gen_ray.tracking.registry import champion, promote_run
from gen_ray.tracking.releases import Release, release
from gen_ray.tracking.runs import TrackedRun, row
from gen_ray.tracking.store import Store
from tests.conftest import CommandResult
from tests.engine import overfitted

CPU = torch.device("cpu")
RUN = "heart-20260101-000000"
Figures = dict[str, float]


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"eval/nearest_train_share": 0.55, "eval/nearest_train_share_standard_error": 0.02}, "0.550 ± 0.020 of its"),
        ({"eval/nearest_train_share": 0.53, "eval/nearest_train_share_standard_error": 0.02}, ""),
        ({"eval/nearest_train_share": 0.45, "eval/nearest_train_share_standard_error": 0.01}, ""),
        ({"eval/bits_gap": 0.31, "eval/bits_gap_standard_error": 0.05}, "0.310 ± 0.050 bits/dim more than"),
        ({"eval/bits_gap": 0.31, "eval/bits_gap_standard_error": 0.06}, ""),
        ({"eval/bits_gap": 0.19}, ""),
        ({}, ""),
    ],
)
def test_a_model_copies_if_a_figure_exceeds_its_limit_by_more_than_two_standard_errors(
    figures: Figures, text: str
) -> None:
    assert MAX_GAP == 0.1
    reason = copying_reason({"eval/bits_per_dim": 2.0, **figures})
    assert text in reason and bool(text) == bool(reason) and "\n" not in reason
    assert not has_copy_figures(figures)


@pytest.fixture(scope="module")
def planted() -> tuple[artifact.Model, Figures, Figures]:
    """Return a model of 100 rows after many steps, its figures, and those of a model of 3,900 rows after as many."""
    spec, x = overfitted.rows(4100)
    both = []
    for train in (x[:100], x[100:4000]):
        model, data = overfitted.trained(spec, train, 400), overfitted.reference(train, x[4000:])
        both.append((model, copy_report(model, data, device=CPU) | likelihood(model, data, device=CPU)[0]))
    (model, copied), (_, learned) = both
    return model, copied, learned


def test_an_overfitted_model_is_recognised_and_a_good_one_is_not(
    planted: tuple[artifact.Model, Figures, Figures],
) -> None:
    _, copied, learned = planted
    assert has_copy_figures(copied) and copied["eval/nearest_train_share"] > 0.6
    assert "nearer to training" in copying_reason(copied) and "bits/dim more" in copying_reason(copied)
    assert copying_reason(learned) == "" and learned["eval/bits_gap"] < 0.05 * learned["eval/bits_per_dim"]


@pytest.fixture(scope="module")
def planted_images() -> tuple[artifact.Model, Figures, Figures]:
    """Return a model of 60 images after many steps, its figures, and those of no copies."""
    spec, x = overfitted.noise(160)
    train, data = x[:60], overfitted.reference(x[:60], x[60:])
    model = overfitted.trained(spec, train, 500)
    copied = copy_report(model, data, device=CPU) | likelihood(model, data, device=CPU)[0]
    return model, copied, {"eval/nearest_train_share": 0.5, "eval/bits_gap": 0.0}


def test_an_overfitted_model_of_images_is_recognised(
    planted_images: tuple[artifact.Model, Figures, Figures],
) -> None:
    _, figures, _ = planted_images
    assert figures["eval/nearest_train_share"] > 0.7
    assert "nearer to training" in copying_reason(figures) and "bits/dim more" in copying_reason(figures)


@pytest.mark.parametrize("kind", ["planted", "planted_images"])
def test_a_promotion_of_an_overfitted_model_is_refused_and_can_be_forced(
    kind: str,
    request: pytest.FixtureRequest,
    gen_ray: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, copied, learned = request.getfixturevalue(kind)
    store = Store(f"sqlite:///{tmp_path}/elsewhere.db", "gen_ray", (tmp_path / "kept").as_uri())
    model = replace(model, meta={**model.meta, "metrics": copied})
    artifact.write(tmp_path / "runs" / RUN / "artifact", model)
    run = TrackedRun(store, "heart", name=RUN, params={}, tags={})
    run.log({name: copied[name] for name in ("eval/bits_per_dim", "eval/nearest_train_share")}, 0)
    run.close("FINISHED")
    monkeypatch.setattr("pipelines.promote._measured", lambda *_: Release(version=""))
    command = ["promote", RUN, "--storage", tmp_path, "--tracking-uri", store.uri, "--name", "rows"]
    refused = gen_ray(*command)
    assert refused.code == 0 and refused.out.startswith("rows: heart is not promoted: it copies its training data: 0.")
    assert refused.out.count("\n") == 1 and "--force" in refused.out and champion(store, "rows") is None
    assert row(store, "heart").tags["gen_ray.copies"] in refused.out and "training.patience" in refused.out
    compared = gen_ray("compare", "--storage", tmp_path, "--uri", store.uri)
    assert f"{copied['eval/nearest_train_share']:.3f}" in compared.out and "copies" in compared.out, compared
    result = gen_ray(*command, "--force")
    assert result.code == 0 and f"rows: {copying_reason(copied)}; --force promotes it nevertheless" in result.err
    forced = champion(store, "rows")
    assert forced is not None and forced.tags["gen_ray.copies"] == copying_reason(copied)
    assert release(store, "models:/rows@champion").copies == copying_reason(copied)

    # The same artifact without figures of its evaluation: they are measured, and recorded.
    artifact.write(tmp_path / "runs" / RUN / "artifact", replace(model, meta={**model.meta, "metrics": {}}))
    figures = {name: value for name, value in learned.items() if "gap" in name or "nearest" in name}
    monkeypatch.setattr("pipelines.copying._measured", lambda *_: figures)
    again = gen_ray(*command, "--force")
    assert again.code == 0 and row(store, "heart").metrics.items() >= figures.items()


def test_a_sweep_does_not_promote_a_run_whose_figures_show_copies(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/sweeps.db", "gen_ray", (tmp_path / "kept").as_uri())
    figures = {
        "eval/bits_per_dim": 1.0,
        "eval/nearest_train_share": 0.7,
        "eval/nearest_train_share_standard_error": 0.1,
    }
    for run_id, share in (("copied", 0.8), ("learned", 0.6)):
        run = TrackedRun(store, run_id, name=run_id, params={}, tags={})
        run.log({**figures, "eval/nearest_train_share": share}, 1)
        run.close("FINISHED")
    verdict = promote_run(store, "rows", "copied", "eval/bits_per_dim")
    assert not verdict.promoted and verdict.line.startswith("rows: copied is not promoted: it copies its training data")
    assert promote_run(store, "rows", "learned", "eval/bits_per_dim").promoted
