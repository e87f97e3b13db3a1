"""The typed configuration of a sweep: a base experiment, a search space over its keys, and a searcher."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from gen_ray.configuration import yaml12
from gen_ray.configuration.base import Config, validated
from gen_ray.configuration.field_types import Name, Text
from gen_ray.configuration.files import SWEEP, TRAINING, checked, with_location
from gen_ray.configuration.overrides import apply, merge, put
from gen_ray.errors import UserError, nearest
from gen_ray.experiment import Experiment, flatten, parse
from gen_ray.metrics import BITS_PER_DIM, VALIDATION_LOSS, objectives, sign
from gen_ray.sweeps.axes import Point, SearchAxis, words
from gen_ray.sweeps.corners import combinations, corners
from gen_ray.sweeps.data_keys import DATA_KEYS, check_data_keys, decides_data
from gen_ray.sweeps.ranking import DECIDED_BY, check_rankable
from gen_ray.sweeps.schedulers import AshaConfig, MedianConfig, NoPruning, PopulationConfig, Scheduler

DURING = VALIDATION_LOSS.name
"""The only metric that is available during training, and so the only one for early stopping."""
SEARCHED = ("family", "family.", "training.", "evaluation.", "data.batch_size", *DATA_KEYS)
"""The keys that can be searched; those with a dot at the end stand for all keys below."""
CHANGING = tuple(
    f"training.{key}" for key in ("learning_rate", "betas", "weight_decay", "gradient_clip_norm", "ema_decay")
)
"""Keys that may change between checkpoints, because neither the weights' shapes nor the loss depend on them."""
GRID = 51_200
"""Maximum number of points of a grid."""


class SearcherConfig(Config):
    """The searcher: all points of a grid, random points, or a tree-structured Parzen estimator."""

    name: Literal["grid", "random", "tpe"] = Field(
        "random", description="grid: all points; random: random points; tpe: learns from finished trials"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the points")


def _direction(metric: str) -> Literal["minimize", "maximize"]:
    return "minimize" if sign(metric) > 0 else "maximize"


class SweepConfig(Config):
    """The configuration of a sweep.

    ``load`` creates it, and reports mistakes in one line.
    """

    name: Name = Field(description="name of the sweep and of its runs")
    experiment: Text = Field(description="YAML of the base experiment, relative to this file")
    settings: dict[str, Any] = Field({}, description="changes of the experiment that all trials share")
    space: dict[str, SearchAxis] = Field(min_length=1, description="the searched keys and their values")
    metric: str = Field(BITS_PER_DIM.name, description="metric to optimise")
    direction: Literal["minimize", "maximize"] = Field(
        default_factory=lambda known: _direction(known.get("metric", BITS_PER_DIM.name)),
        description="whether a small or a large metric is better; default: the direction of the metric",
    )
    searcher: SearcherConfig = SearcherConfig()
    scheduler: Scheduler = Field(NoPruning(), description="early stopping of poor trials")
    trials: int | None = Field(None, ge=1, le=100_000, description="number of trials; default: all points of a grid")
    minutes: float | None = Field(None, gt=0, le=1e6, description="minutes after which no trial is started")
    concurrency: int | None = Field(None, ge=1, le=10_000, description="concurrent trials; default: all that fit")
    max_failures: int = Field(3, ge=0, le=10_000, description="restarts of a trial's lost process before it fails")
    best: int = Field(4, ge=1, le=1000, description="number of trials whose samples are shown")

    @property
    def sign(self) -> int:
        """Return 1 if the metric is minimised, -1 if it is maximised."""
        return {"minimize": 1, "maximize": -1}[self.direction]


class SweepPlan:
    """A sweep with its base experiment: maps points to experiments."""

    def __init__(self, sweep: SweepConfig, base: Mapping[str, Any]) -> None:
        """Take the configurations of the sweep and of its base experiment. Check them as far as possible without data.

        Raise UserError.
        """
        self.sweep, self.base = sweep, base
        _check(sweep)
        self._corners = corners(sweep.space)
        self.experiments = [self.experiment(point) for point in self._corners]
        _check_metric(sweep, self.experiments)
        deciding_keys = {key for keys in DECIDED_BY.values() for key in keys}
        deciding = [self.experiment(point) for point in _reduced(sweep.space, deciding_keys)]
        check_rankable(sweep.metric, list(sweep.space), deciding)
        if isinstance(sweep.scheduler, AshaConfig | MedianConfig) and sweep.scheduler.grace_epochs > self.epochs:
            raise UserError(
                f"scheduler.grace_epochs={sweep.scheduler.grace_epochs}: is more than training.epochs={self.epochs}, "
                "before which every trial has ended"
            )
        if isinstance(sweep.scheduler, PopulationConfig):
            _check_population(sweep, sweep.scheduler, self.first.training.epochs)

    @property
    def first(self) -> Experiment:
        """Return the experiment of one point. Settings that are not searched are equal in all experiments."""
        return self.experiments[0]

    @property
    def epochs(self) -> int:
        """Return the epochs of the longest trial."""
        return max(experiment.training.epochs for experiment in self.experiments)

    def experiment(self, point: Point) -> Experiment:
        """Return the experiment of a point. Raise UserError with the point if its settings are invalid."""
        raw: dict[str, Any] = json.loads(json.dumps(self.base))
        try:
            for key, value in point.items():
                put(raw, key, deepcopy(value))  # keys below it must not change the choice
            return parse(raw)
        except UserError as error:
            raise UserError(f"space: {words(point)}: {error}") from None

    def corners(self) -> Sequence[Point]:
        """Return the points at the ends of all ranges and with all choices, or some of them in a large space."""
        return self._corners

    def data_points(self) -> Iterator[Point]:
        """Yield points with all combinations of the searched keys that decide the prepared data."""
        return _reduced(self.sweep.space, filter(decides_data, self.sweep.space))

    def grid(self) -> list[Point]:
        """Return all points of a space of choices. Raise UserError for more than GRID points."""
        found = list(itertools.islice(combinations(list(self.sweep.space.items())), GRID + 1))
        if len(found) > GRID:
            raise UserError(f"space: a grid of more than {GRID} points; use searcher random or tpe")
        return found


def _reduced(space: Mapping[str, SearchAxis], keys: Iterable[str]) -> Iterator[Point]:
    """Yield the combinations of the ends of some keys and of the keys in their ``when``, all others at one end."""
    deciding = set(keys)
    for key, axis in reversed(list(space.items())):
        if key in deciding:
            deciding.update(axis.when)
    ends = {key: SearchAxis(choice=[axis.ends[0]], when=axis.when) for key, axis in space.items()}
    return combinations([(key, axis if key in deciding else ends[key]) for key, axis in space.items()])


def load(file: Path, overrides: Iterable[str] = ()) -> SweepPlan:
    """Return the plan of a sweep's YAML file after ``dotted.key=value`` overrides.

    An override of a sweep's key (trials, metric, searcher.…) changes the sweep. Any other override changes the
    experiment of all trials. Raise UserError: one line with the file, the key and the nearest valid key.
    """
    raw = checked(file, SWEEP)
    own, settings = deepcopy(raw), list[str]()
    for override in overrides:
        section, *key = override.partition("=")[0].strip().split(".")
        if section == "space" and len(key) > 1:  # an axis is named by a dotted key
            axis = ".".join(key[:-1])
            apply(raw.setdefault("space", {}).setdefault(axis, {}), override.strip().removeprefix(f"space.{axis}."))
        elif section in SweepConfig.model_fields:
            apply(raw, override)
        else:
            settings.append(override)
    to_sweep = partial(validated, SweepConfig)
    try:
        sweep = to_sweep(raw)
    except UserError as error:
        raise with_location(error, own, file, (), to_sweep) from None
    base = checked((file.parent / sweep.experiment).resolve(), TRAINING)
    merge(base, sweep.settings)
    for override in settings:
        apply(base, override)
    base["name"] = sweep.name
    return SweepPlan(sweep, base)


def dump(plan: SweepPlan) -> str:
    """Return a plan as YAML. Equal plans have equal texts."""
    return yaml12.dump({"sweep": plan.sweep.model_dump(mode="json"), "base": dict(plan.base)})


def differences(saved: bytes, plan: SweepPlan) -> list[str]:
    """Return the keys in which a plan saved by ``dump`` differs from another plan.

    storage.root is not compared, because a storage can be moved. For an unreadable file the result is a text that says
    so.
    """
    try:
        before = _without_root(yaml12.parsed(saved.decode()))
    except (ValueError, AttributeError, RecursionError, yaml.YAMLError):
        return ["a damaged file"]
    now = _without_root(yaml12.parsed(dump(plan)))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    spaces = [[key for key in flat if key.startswith("sweep.space.")] for flat in (before, now)]
    return changed or (["sweep.space"] if spaces[0] != spaces[1] else [])  # searchers draw in the order of the keys


def _without_root(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(raw) if not key.endswith("storage.root")}


def _check(sweep: SweepConfig) -> None:
    known: list[str] = []
    for key, axis in sweep.space.items():
        searched = any(key == one or (one.endswith(".") and key.startswith(one)) for one in SEARCHED)
        if not searched and not decides_data(key):
            raise UserError(f"space.{key}: cannot be searched; these can: {', '.join(SEARCHED)}")
        for other in axis.when:
            if other not in known:
                raise UserError(
                    f"space.{key}.when.{other}: must be a key declared earlier in space; {nearest(other, known)}"
                )
        known.append(key)
    check_data_keys(sweep)
    ranges = [key for key, axis in sweep.space.items() if axis.choice is None]
    if sweep.searcher.name == "grid" and ranges:
        raise UserError(f"space.{ranges[0]}: a grid needs a list of choices; ranges need searcher random or tpe")
    if sweep.searcher.name != "grid" and sweep.trials is None:
        raise UserError(f"trials: is required for searcher {sweep.searcher.name}, e.g. trials=20")


def _check_metric(sweep: SweepConfig, experiments: Sequence[Experiment]) -> None:
    """Raise UserError for a metric that is unknown, or that is not comparable between trials."""
    if sweep.metric not in objectives():
        raise UserError(f"metric: {sweep.metric!r} is unknown; {nearest(sweep.metric, objectives())}")
    if sweep.scheduler.name != "none" and sweep.metric != DURING:
        raise UserError(
            f"scheduler.name={sweep.scheduler.name}: needs metric={DURING}, the only one known while a trial trains"
        )
    if sweep.metric == DURING and not all(experiment.family.loss_is_bound for experiment in experiments):
        changing = [key for key in sweep.space if key.startswith("family") and not key.startswith("family.net")]
        if changing:
            raise UserError(
                f"metric: {DURING} is not comparable between values of {changing[0]}; use {BITS_PER_DIM.name}"
            )


def _check_population(sweep: SweepConfig, population: PopulationConfig, epochs: int) -> None:
    """Raise UserError for keys that cannot change during training, and for a population without any copies."""
    for key in sweep.space:
        if key not in CHANGING:
            raise UserError(f"space.{key}: cannot change during training; pbt can change: {', '.join(CHANGING)}")
    if sweep.searcher.name == "tpe":
        raise UserError(
            "searcher.name=tpe: cannot learn from trials that pbt changes while they train; use random or grid"
        )
    if sweep.trials == 1:
        raise UserError("trials=1: pbt needs at least 2")
    if population.interval_epochs >= epochs:
        raise UserError(
            f"scheduler.interval_epochs={population.interval_epochs}: must be less than training.epochs={epochs}"
        )
