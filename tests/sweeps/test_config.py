"""Sweep configuration: an impossible sweep is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gen_ray.datasets.catalogue import open_source
from gen_ray.datasets.source import SourceOptions
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.sweeps.axes import SearchAxis, words
from gen_ray.sweeps.config import differences, dump, load
from gen_ray.sweeps.corners import MAX_CORNERS, corners
from tests import tabular_joint

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))
BASE = {
    "name": "base",
    "family": {"name": "vae", "latent_dim": 4, "net": {"name": "mlp", "hidden": [16]}},
    "data": {"source": "digits", "batch_size": 128},
}
SPACE: dict[str, Any] = {"family.latent_dim": {"choice": [2, 4]}}


def written(folder: Path, base: dict[str, Any] = BASE, **keys: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    sweep = {"name": "s", "experiment": "base.yaml", "space": SPACE, "searcher": {"name": "grid"}, **keys}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    return folder / "sweep.yaml"


def spec_of(source: str) -> DataSpec:
    """Return the spec of an embedded data set, or of any table in place of a file."""
    return tabular_joint.spec() if ":" in source else open_source(source, None, SourceOptions()).spec()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_corner_of_a_shipped_sweep_is_valid(file: Path) -> None:
    plan = load(file)
    assert dump(load(file)) == dump(plan)
    experiments = [plan.experiment(point) for point in plan.corners()]
    assert {experiment.name for experiment in experiments} == {file.stem}, "a trial has the sweep's name"
    for experiment in experiments:
        experiment.model(spec_of(experiment.data.source)).build_net()


def test_a_conditional_key_occurs_only_with_the_key_it_depends_on(tmp_path: Path) -> None:
    space = {
        "family.latent_dim": {"choice": [2, 4]},
        "training.learning_rate": {"choice": [1e-3, 2e-3], "when": {"family.latent_dim": 2}},
        "training.ema_decay": {"choice": [0.5], "when": {"training.learning_rate": [2e-3]}},
    }
    points = load(written(tmp_path, space=space)).grid()
    assert [words(point) for point in points] == [
        "latent_dim=2, learning_rate=0.001",
        "latent_dim=2, learning_rate=0.002, ema_decay=0.5",
        "latent_dim=4",
    ]


def test_keys_with_the_same_last_part_are_distinguished() -> None:
    point = {"data.options.bins": 8, "data.options.columns.age.bins": 4, "training.seed": 1}
    assert words(point) == "options.bins=8, age.bins=4, seed=1"


FAMILIES = [
    {"name": "vae", "net": "mlp"},
    {"name": "vae", "net": {"name": "mlp", "hidden": [64, 64]}, "latent_dim": 7},
    {"name": "ddpm", "net": {"name": "mlp", "width": 16, "depth": 1}},
]


def test_a_family_is_searched_and_keys_depend_on_its_name(tmp_path: Path) -> None:
    space = {
        "family": {"choice": FAMILIES},
        "family.kl_warmup_steps": {"choice": [0, 5], "when": {"family": "vae"}},
        "family.predict": {"choice": ["eps"], "when": {"family": [{"name": "nothing"}, "ddpm"]}},
    }
    plan = load(written(tmp_path, space=space))
    points = plan.grid()
    assert [words(point) for point in points] == [
        "family={name: vae, net: mlp}, kl_warmup_steps=0",
        "family={name: vae, net: mlp}, kl_warmup_steps=5",
        "family=vae …, kl_warmup_steps=0",
        "family=vae …, kl_warmup_steps=5",
        "family={name: ddpm, net: {depth: 1, name: mlp, width: 16}}, predict=eps",
    ]
    families = [plan.experiment(point).family for point in points]
    assert [family.name for family in families] == ["vae"] * 4 + ["ddpm"]
    assert [getattr(family, "latent_dim", None) for family in families[1:3]] == [families[0].latent_dim, 7]
    binary = [{"name": "vae", "likelihood": "bernoulli", "binarise": "static"}, *FAMILIES]
    with pytest.raises(UserError, match=r"space\.family: trials would have eval/bits_per_dim of different provenance"):
        load(written(tmp_path, space={"family": {"choice": binary}}))
    with pytest.raises(UserError, match=r"validation/loss_nats is not comparable between values of family;"):
        load(written(tmp_path, space=space, metric="validation/loss_nats"))
    with pytest.raises(UserError, match=r"space\.familyx: cannot be searched"):
        load(written(tmp_path, space={"familyx": {"choice": [1]}}))


def test_overrides_of_sweep_keys_change_the_sweep_and_others_all_trials(tmp_path: Path) -> None:
    plan = load(written(tmp_path), ["trials=1", "training.epochs=3", "space.family.latent_dim.choice=[7]"])
    [point] = plan.grid()
    assert plan.sweep.trials == 1 and point == {"family.latent_dim": 7}
    assert plan.experiment(point).training.epochs == 3 and plan.experiment(point).family.latent_dim == 7


def test_a_space_too_large_for_a_grid_is_valid_for_a_random_search(tmp_path: Path) -> None:
    names = ("training.seed", "training.epochs", "family.latent_dim")
    space = {name: {"choice": list(range(1, 101))} for name in names}
    with pytest.raises(UserError, match="more than 51200 points"):
        load(written(tmp_path, space=space)).grid()
    assert len(load(written(tmp_path, space=space, searcher={"name": "random"}, trials=3)).corners()) == MAX_CORNERS


LARGE = {f"family.key{number}": {"choice": list(range(5))} for number in range(5)}


def test_the_corners_of_a_large_space_cover_every_value_and_pair() -> None:
    space = {
        "first": SearchAxis(choice=list(range(700))),
        **{key: SearchAxis(**axis) for key, axis in LARGE.items()},
        "inner": SearchAxis(uniform=(1, 2), when={"first": [699]}),
        "innermost": SearchAxis(choice=["a", "b"], when={"inner": 2.0}),
    }
    found = corners(space)
    assert found == corners(space) and len({str(point) for point in found}) == len(found) <= 720
    for key, axis in space.items():
        assert {point[key] for point in found if key in point} == set(axis.ends)
    assert all(axis.active(point) == (key in point) for point in found for key, axis in space.items())
    keys = list(LARGE)
    pairs = {(point[a], point[b], a, b) for point in found for a in keys for b in keys if a < b}
    assert len(pairs) == 10 * 5 * 5


def test_an_error_in_any_axis_of_a_large_space_is_found(tmp_path: Path) -> None:
    names = (
        "training.seed",
        "family.latent_dim",
        "training.epochs",
        "training.warmup_steps",
        "training.log_every_steps",
    )
    for wrong in names:
        space = {name: {"choice": [*range(1, 6), *([-1] if name == wrong else [])]} for name in names}
        with pytest.raises(UserError, match=f"{wrong}: must be greater"):
            load(written(tmp_path, space=space, searcher={"name": "tpe"}, trials=3))


DDPM = {"name": "base", "family": {"name": "ddpm"}}
RATE = {"training.learning_rate": {"uniform": [1e-4, 1e-2]}}
PBT: dict[str, Any] = {
    "space": RATE, "searcher": {"name": "random"}, "trials": 4, "metric": "validation/loss_nats",
    "scheduler": {"name": "pbt", "interval_epochs": 10},
}  # fmt: skip
WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"space": {"family.latent_dims": {"choice": [2]}}},
        r"latent_dims=2: family.latent_dims: .*'latent_dim'",
    ),
    ({"space": {"family.latent_dim": {"choice": [2, -1]}}}, "latent_dim=-1: family.latent_dim"),
    ({"space": {"family.latent_dim": {"randint": [0, 5]}}, "searcher": {"name": "tpe"}, "trials": 3}, "latent_dim=0"),
    ({"space": {"scaling.num_workers": {"choice": [1]}}}, r"space.scaling.num_workers: cannot be searched"),
    ({"space": {}}, "space"),
    ({"space": {"family.latent_dim": {}}}, r"space.family.latent_dim: needs exactly one of choice, uniform"),
    ({"space": {"training.learning_rate": {"uniform": [2, 1]}}}, "lower end"),
    ({"space": {"training.learning_rate": {"loguniform": [0, 1]}}}, "above 0"),
    ({"space": RATE}, "a grid needs a list of choices"),
    ({"space": RATE, "searcher": {"name": "random"}}, "trials: is required for searcher random"),
    (
        {"space": {"family.latent_dim": {"choice": [2], "when": {"family.likelihod": 1}}}},
        "must be a key declared earlier in space",
    ),
    ({"space": {"family.latent_dim.x": {"choice": [2]}}}, "latent_dim is a single value"),
    ({"metric": "eval/bits"}, r"did you mean 'eval/bits_per_dim'"),
    ({"scheduler": {"name": "asha"}}, "needs metric=validation/loss_nats"),
    ({**PBT, "scheduler": {"name": "asha", "grace_epochs": 50}}, "grace_epochs=50: is more than training.epochs=40"),
    ({"scheduler": {"name": "none", "grace_epochs": 2}}, "scheduler.grace_epochs: scheduler has no such key"),
    ({"scheduler": {"name": "median", "reduction": 2}}, "scheduler.reduction: scheduler has no such key"),
    ({"scheduler": "pbd"}, "scheduler"),
    ({**PBT, "scheduler": "pbt"}, "scheduler.interval_epochs: is required"),
    ({**PBT, "scheduler": {**PBT["scheduler"], "quantile": 0.6}}, "scheduler.quantile: .*0.5, got 0.6"),
    ({**PBT, "scheduler": {**PBT["scheduler"], "interval_epochs": 40}}, "must be less than training.epochs=40"),
    ({**PBT, "metric": "eval/bits_per_dim"}, "name=pbt: needs metric=validation/loss_nats"),
    ({**PBT, "searcher": {"name": "tpe"}}, "searcher.name=tpe: cannot learn"),
    ({**PBT, "trials": 1}, "trials=1: pbt needs at least 2"),
    (
        {**PBT, "space": {**RATE, "family.latent_dim": {"choice": [2, 4]}}},
        "space.family.latent_dim: cannot change during training; pbt can change: training.learning_rate",
    ),
    ({**PBT, "space": {**RATE, "training.seed": {"choice": [2, 4]}}}, "space.training.seed: cannot change"),
    ({"searcher": {"name": "tpee"}}, "searcher.name"),
    ({"trialz": 3}, r"trialz: .*did you mean 'trials'"),
    ({"experiment": "nowhere.yaml"}, r"nowhere.yaml: No such file"),
]


@pytest.mark.parametrize(("keys", "expected"), WRONG, ids=[expected for _, expected in WRONG])
def test_an_error_is_found_before_the_first_trial(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as fault:
        load(written(tmp_path, **keys))
    assert "\n" not in str(fault.value)


def test_the_grace_period_is_compared_with_the_longest_trial(tmp_path: Path) -> None:
    changes = {"scheduler": {"name": "asha", "grace_epochs": 50}, "metric": "validation/loss_nats"}
    plan = load(written(tmp_path, **changes, space={"training.epochs": {"choice": [10, 60]}}))
    assert plan.epochs == 60


def test_a_population_is_valid_with_keys_that_may_change(tmp_path: Path) -> None:
    space = {
        **RATE,
        "training.betas": {"choice": [[0.9, 0.99], [0.5, 0.9]]},
        "training.ema_decay": {"uniform": [0, 0.9]},
    }
    plan = load(written(tmp_path, **{**PBT, "space": space}))
    assert plan.sweep.scheduler.name == "pbt"


def test_losses_that_are_not_comparable_between_trials_are_refused(tmp_path: Path) -> None:
    space = {"family.schedule": {"choice": ["linear", "cosine"]}}
    with pytest.raises(UserError, match=r"is not comparable between values of family.schedule"):
        load(written(tmp_path, DDPM, space=space, metric="validation/loss_nats"))
    rates = {"training.learning_rate": {"choice": [1e-3, 2e-3]}}
    assert load(written(tmp_path, DDPM, space=rates, metric="validation/loss_nats")).grid()


BINARY = {"choice": ["static", "dynamic"], "when": {"family.likelihood": "bernoulli"}}
BOTH = {"family.likelihood": {"choice": ["logistic", "bernoulli"]}, "family.binarise": BINARY}
MIDDLE = {f"training.{key}": {"uniform": [0.1, 0.9]} for key in ("ema_decay", "weight_decay", "learning_rate")}
MANY = {"family.latent_dim": {"choice": list(range(2, 102))}, **MIDDLE}
UNRANKABLE = [
    ("eval/bits_per_dim", BOTH, "family.likelihood", {}),
    ("validation/loss_nats", BOTH, "family.likelihood", {}),
    ("eval/bits_per_dim", {**BOTH, **MANY}, "family.likelihood", {}),
    ("eval/bits_per_dim", {**MANY, **BOTH}, "family.likelihood", {}),
    (
        "eval/bits_per_dim",
        {"family.binarise": {"choice": ["static", "dynamic"]}},
        "family.binarise",
        {"family": {"likelihood": "bernoulli", "binarise": "static"}},
    ),
    ("eval/bits_per_dim", {"evaluation.likelihood_rows": {"choice": [10, 20]}}, "evaluation.likelihood_rows", {}),
    ("eval/frechet_distance", {"evaluation.samples": {"randint": [10, 20]}}, "evaluation.samples", {}),
    ("eval/recall", {"evaluation.neighbours": {"choice": [3, 5]}}, "evaluation.neighbours", {}),
]


@pytest.mark.parametrize(("metric", "space", "key", "settings"), UNRANKABLE)
def test_a_sweep_whose_metrics_cannot_be_ranked_is_refused(
    tmp_path: Path, metric: str, space: dict[str, Any], key: str, settings: dict[str, Any]
) -> None:
    searcher = {"name": "random"}
    with pytest.raises(UserError, match=rf"space\.{key}: trials would have {metric} of different provenance"):
        load(written(tmp_path, metric=metric, space=space, settings=settings, searcher=searcher, trials=4))


@pytest.mark.parametrize(
    ("metric", "space"),
    [
        ("eval/bits_per_dim", {"family.likelihood": {"choice": ["logistic", "categorical"]}}),
        ("eval/frechet_distance", BOTH),
        ("sample/seconds_per_image", BOTH),
        ("eval/bits_per_dim", {"evaluation.effort": {"choice": [1, 10]}}),
        ("eval/bits_per_dim", {"evaluation.samples": {"choice": [10, 20]}}),
    ],
)
def test_a_sweep_of_comparable_metrics_is_valid(tmp_path: Path, metric: str, space: dict[str, Any]) -> None:
    searcher = {"name": "random"}
    assert load(written(tmp_path, metric=metric, space=space, searcher=searcher, trials=4)).first


TABLE = {"name": "base", "family": "discrete", "data": {"source": "iris", "options": {"columns": {"target": {}}}}}
BINS: dict[str, Any] = {"data.options.bins": {"choice": [8, 16]}}
BEYOND = {"metric": "eval/bits_beyond_marginals"}
USABLE = "use eval/bits_beyond_marginals or sample/seconds_per_image"
NOT_OVER_BINS: list[tuple[dict[str, Any], str]] = [
    ({}, rf"metric: eval/bits_per_dim is of other codes, .* for each value of data.options.bins; {USABLE}"),
    ({"metric": "validation/loss_nats"}, rf"metric: validation/loss_nats is of other codes, .*; {USABLE}"),
    *(
        ({"metric": f"eval/{name}"}, rf"metric: eval/{name} is of .*values decoded from them, .*; {USABLE}")
        for name in ("column_shape_error", "pair_trend_error", "detection_auc", "prediction_of_samples")
    ),
    (
        {"metric": "validation/loss_nats", "scheduler": "asha"},
        "scheduler.name=asha: compares trials by validation/loss_nats, which is of other codes .* use none",
    ),
    ({**PBT, "space": BINS}, "scheduler.name=pbt: compares trials by validation/loss_nats"),
    (
        {**BEYOND, "space": {"data.options.bins": {"randint": [8, 16]}}},
        "space.data.options.bins: needs a choice, because the data of each value are prepared before",
    ),
    (
        {**BEYOND, "space": {"data.options.hide_share": {"choice": [0, 0.1]}}},
        r"space.data.options.hide_share: cannot be searched; .*data.options.bins, data.options.columns.NAME.bins",
    ),
    ({**BEYOND, "space": {"data.options.binsx": {"choice": [2]}}}, "cannot be searched"),
    ({**BEYOND, "space": {"data.options.columns.a.b.bins": {"choice": [2]}}}, "cannot be searched"),
    ({**BEYOND, "space": {"data.options.bins": {"choice": [8, 1]}}}, "bins=1: data.options.bins"),
]


@pytest.mark.parametrize(("keys", "expected"), NOT_OVER_BINS, ids=[expected for _, expected in NOT_OVER_BINS])
def test_figures_of_different_codes_are_not_searched_for(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as fault:
        load(written(tmp_path, TABLE, **{"space": BINS, **keys}))
    assert "\n" not in str(fault.value)


def test_intervals_of_a_table_and_of_a_column_are_searched(tmp_path: Path) -> None:
    space = {
        "family.net": {"choice": ["columns", "columns_transformer"]},
        **BINS,
        "data.options.columns.target.bins": {"choice": [4, 5], "when": {"data.options.bins": 16}},
        "training.seed": {"choice": [0, 1, 2]},
    }
    plan = load(written(tmp_path, TABLE, **BEYOND, space=space))
    found = [plan.experiment(point).data.options for point in plan.data_points()]
    assert [(options.bins, options.of("target").bins) for options in found] == [(8, None), (16, 4), (16, 5)]
    assert load(written(tmp_path, TABLE, metric="sample/seconds_per_image", space=BINS)).first.data.options.bins == 8


def test_a_stored_plan_is_the_same_after_its_storage_moved(tmp_path: Path) -> None:
    """Also if the YAML names the storage; any other change, including the order of the space, makes another plan."""
    base = {"family": {"name": "vae"}, "name": "base", "storage": {"root": "old"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    space = {"training.seed": {"choice": [1, 2]}, "training.learning_rate": {"choice": [1e-5, 1e-3]}}
    raw = {"name": "s", "experiment": "base.yaml", "space": space, "searcher": {"name": "grid"}}
    raw["settings"] = {"storage": {"root": "old"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    stored = dump(load(tmp_path / "s.yaml")).encode()
    for moved in ([], ["storage.root=/new"], ["storage.root=s3://bucket/x"]):
        assert differences(stored, load(tmp_path / "s.yaml", moved)) == []
    assert differences(stored, load(tmp_path / "s.yaml", ["training.epochs=3"])) == ["base.training.epochs"]
    assert differences(stored, load(tmp_path / "s.yaml", ["concurrency=3"])) == ["sweep.concurrency"]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**raw, "space": dict(reversed(space.items()))}, sort_keys=False))
    assert differences(stored, load(tmp_path / "s.yaml")) == ["sweep.space"]
    for damaged in (b"", b"\xff", b"[1", b"- 1", stored[:50]):
        assert differences(damaged, load(tmp_path / "s.yaml"))
