"""The record of a sweep: an Optuna study in a journal file, with all trials, their results and the waiting points.

All state of a sweep is in this file, so that a new driver can continue after the old one was killed.
"""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from gen_ray.sweeps.axes import Point, Scalar, SearchAxis, label
from gen_ray.sweeps.config import SweepPlan
from gen_ray.sweeps.journal import journal
from gen_ray.sweeps.points import predetermined_points

RECORD = "study.jsonl"
METRICS, ERROR, REASON, COPIES, RESUMED = "metrics", "error", "reason", "copies", "resumed"
FINISHED, STOPPED, FAILED, LIVE = "finished", "stopped early", "failed", "live"
STATES = {
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: STOPPED,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: LIVE,
}


@dataclass(frozen=True, kw_only=True)
class TrialCopy:
    """A copy event: after ``epoch`` epochs a trial continues as a copy of a donor with the settings of a point."""

    epoch: int
    donor: int
    point: Point

    def __str__(self) -> str:
        """Return the donor and the epoch as text."""
        return f"{self.donor:03d} at epoch {self.epoch}"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A trial of the record, with its final settings."""

    number: int
    point: Point
    state: str
    value: float | None
    metrics: Mapping[str, float]
    error: str
    reason: str
    seconds: float
    stopped_at: int | None = None
    copies: Sequence[TrialCopy] = ()


class Study:
    """The record of a sweep, in a file in its folder."""

    def __init__(self, plan: SweepPlan, folder: Path) -> None:
        """Open or create the record. Points that do not depend on results are recorded before the first trial.

        Raise UserError for a damaged record.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.sweep, file = plan, plan.sweep, folder / RECORD
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            self.study = optuna.create_study(
                study_name=folder.name,
                storage=JournalStorage(journal(file)),
                # Trials run concurrently: with constant_liar, points close to a running trial are less attractive.
                sampler=optuna.samplers.TPESampler(seed=self.sweep.searcher.seed, constant_liar=True),
                direction=self.sweep.direction,
                load_if_exists=True,
            )
        points = predetermined_points(plan)
        self.trial_count = len(points) if points is not None else self.sweep.trials or 0
        for point in (points or [])[len(self._trials()) :]:  # all, or those that a killed process did not add
            self.study.enqueue_trial({key: label(value) for key, value in point.items()})
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        self.waiting = [Trial(self.study, trial._trial_id) for trial in running]
        last = max((moment for trial in self._trials() for moment in _moments(trial)), default=0.0)
        self.before = {trial.number: _seconds(trial, last) for trial in running}
        self.live: dict[int, Trial] = {}

    def exhausted(self) -> bool:
        """Return whether all trials were started."""
        started = sum(trial.state != TrialState.WAITING for trial in self._trials())
        return not self.waiting and started >= self.trial_count

    def ask(self) -> tuple[int, Point]:
        """Return the number and point of the next trial: one that was live when a driver died, else a new one."""
        trial = self.waiting.pop(0) if self.waiting else self.study.ask()
        if trial.number in self.before:
            trial.set_user_attr(RESUMED, {"at": time.time(), "seconds": self.before[trial.number]})
        self.live[trial.number] = trial
        return trial.number, self._point(trial)

    def copy(self, number: int, copy: TrialCopy) -> Sequence[TrialCopy]:
        """Record that a live trial continues as a copy of another one. Return all its copies so far."""
        trial, point = self.live[number], {key: label(value) for key, value in copy.point.items()}
        words = {"epoch": copy.epoch, "donor": copy.donor, "point": point}
        trial.set_user_attr(COPIES, [*trial.user_attrs.get(COPIES, []), words])
        return self.copies(number)

    def point(self, number: int) -> Point:
        """Return the present settings of a live trial."""
        return self._point(self.live[number])

    def copies(self, number: int) -> Sequence[TrialCopy]:
        """Return the copies that a live trial has made so far."""
        return self._copies(self.live[number])

    def tell(
        self,
        number: int,
        metrics: Mapping[str, float],
        *,
        error: str = "",
        reason: str = "",
        stopped_at: int | None = None,
    ) -> TrialResult:
        """Record and return the result of a trial: an error, the final metrics, or the epoch of an early stop."""
        trial, value = self.live.pop(number), metrics.get(self.sweep.metric)
        trial.set_user_attr(METRICS, dict(metrics))
        if error or value is None or not np.isfinite(value):
            trial.set_user_attr(ERROR, error or f"{self.sweep.metric} is {value}")
            trial.set_user_attr(REASON, reason or "metric")
            return self._result(self.study.tell(trial, state=TrialState.FAIL))
        if stopped_at is not None:
            trial.report(value, stopped_at)
            return self._result(self.study.tell(trial, state=TrialState.PRUNED))
        return self._result(self.study.tell(trial, value))

    def results(self) -> list[TrialResult]:
        """Return all trials that were started, in the order of their numbers."""
        return [self._result(trial) for trial in self._trials() if trial.state in STATES]

    def unfinished(self) -> bool:
        """Return whether any trial has not ended or not started."""
        states = [result.state for result in self.results()]
        return LIVE in states or len(states) < self.trial_count

    def best(self) -> list[TrialResult]:
        """Return the finished trials, best first."""
        finished = [result for result in self.results() if result.state == FINISHED and result.value is not None]
        return sorted(finished, key=lambda result: self.sweep.sign * (result.value or 0.0))

    def plotted(self) -> optuna.Study:
        """Return a study for plots, which holds the finished trials with their final settings."""
        shown, axes = optuna.create_study(direction=self.sweep.direction), self.sweep.space
        for result in self.results():
            if result.state == FINISHED:
                ended = {key: label(value) for key, value in result.point.items()}
                kinds = {key: _distribution(axes[key]) for key in ended}
                shown.add_trial(optuna.trial.create_trial(params=ended, distributions=kinds, value=result.value))
        return shown

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _copies(self, trial: Trial | FrozenTrial) -> list[TrialCopy]:
        space = self.sweep.space
        return [
            TrialCopy(**{**words, "point": {key: _value(space[key], word) for key, word in words["point"].items()}})
            for words in trial.user_attrs.get(COPIES, [])
        ]

    def _point(self, trial: Trial) -> Point:
        copies = self._copies(trial)
        if copies:
            return copies[-1].point
        point: dict[str, Any] = {}
        for key, axis in self.sweep.space.items():
            if axis.active(point):
                point[key] = _value(axis, _suggested(trial, key, axis))
        return point

    def _result(self, trial: FrozenTrial) -> TrialResult:
        space, copies = self.sweep.space, self._copies(trial)
        initial = {key: _value(space[key], trial.params[key]) for key in space if key in trial.params}
        return TrialResult(
            number=trial.number,
            point=copies[-1].point if copies else initial,
            copies=copies,
            state=STATES[trial.state],
            value=trial.value,
            metrics=trial.user_attrs.get(METRICS, {}),
            error=trial.user_attrs.get(ERROR, ""),
            reason=trial.user_attrs.get(REASON, ""),
            stopped_at=trial.last_step,
            seconds=_seconds(trial, trial.datetime_complete.timestamp()) if trial.datetime_complete else 0.0,
        )


def _moments(trial: FrozenTrial) -> list[float]:
    """Return the times at which something was recorded about a trial, in seconds since 1970."""
    moments = [moment.timestamp() for moment in (trial.datetime_start, trial.datetime_complete) if moment]
    return [*moments, *(resumed["at"] for resumed in [trial.user_attrs.get(RESUMED)] if resumed)]


def _seconds(trial: FrozenTrial, until: float) -> float:
    """Return the duration of a trial in seconds, without the time in which no driver ran.

    The work of a driver that died counts until its last record of any trial, because later work was not recorded.
    """
    start = trial.datetime_start.timestamp() if trial.datetime_start else until
    resumed = trial.user_attrs.get(RESUMED, {"at": start, "seconds": 0.0})
    return float(resumed["seconds"]) + max(0.0, until - float(resumed["at"]))


def _suggested(trial: Trial, key: str, axis: SearchAxis) -> Scalar:
    if axis.choice is not None:
        return trial.suggest_categorical(key, list(map(label, axis.choice)))
    low, high = axis.ends
    if axis.randint is not None:
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=axis.loguniform is not None)


def _distribution(axis: SearchAxis) -> optuna.distributions.BaseDistribution:
    if axis.choice is not None:
        return optuna.distributions.CategoricalDistribution(list(map(label, axis.choice)))
    low, high = axis.ends
    if axis.randint is not None:
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(low, high, log=axis.loguniform is not None)


def _value(axis: SearchAxis, word: Scalar) -> Any:
    """Return the choice with a given label, or the number unchanged."""
    return axis.choice[list(map(label, axis.choice)).index(word)] if axis.choice is not None else word


def table(results: Iterable[TrialResult], keys: Iterable[str], metric: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and a line for each trial. Failed trials show their error."""
    keys = list(keys)
    header = [
        "trial",
        *(key.removeprefix("family.").removeprefix("training.").removeprefix("data.options.") for key in keys),
        metric,
        "state",
        "minutes",
    ]
    lines = [
        [
            f"{result.number:03d}",
            *(_cell(result.point[key]) if key in result.point else "" for key in keys),
            _cell(value) if (value := result.metrics.get(metric)) is not None else "–",
            _story(result),
            f"{result.seconds / 60:.1f}",
        ]
        for result in results
    ]
    return header, lines


def _story(result: TrialResult) -> str:
    if result.error:
        return f"{result.state}: {result.error}"
    return ", from ".join([result.state, *map(str, result.copies)])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(label(value))
