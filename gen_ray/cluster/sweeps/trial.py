"""One trial of a sweep, inside a process of Ray Tune: trained here by one worker, or on Ray Train by several."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from torch import Tensor, nn

from gen_ray import run_directory
from gen_ray.cluster.data.blocks import in_memory
from gen_ray.cluster.data.reading import Splits
from gen_ray.cluster.evaluation.evaluate import evaluate, measure_checkpoint
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import record
from gen_ray.cluster.training.device import reserved_device
from gen_ray.cluster.training.session import RunSession
from gen_ray.cluster.training.train import fault
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.plots import grids
from gen_ray.engine.training import checkpoint, checkpoint_store
from gen_ray.engine.training.loop import fit
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import Experiment, parse
from gen_ray.storage.paths import write_whole
from gen_ray.sweeps.config import DURING

RESULT, SAMPLES = "result.json", "samples.png"
LOOK_SECONDS, DRAIN_SECONDS = 0.5, 5.0
_held: dict[tuple[str, str], Tensor] = {}
"""Splits in this process's memory, for all trials that it will train."""


@dataclass(frozen=True)
class Task:
    """What all trials of a sweep share."""

    tracker: Any
    prepared: Path
    splits: Splits
    cpus: int


class TrialSession(RunSession):
    """The one rank of a trial in a process of Ray Tune, which hears of every validation and may end the trial there."""

    rank, world_size = 0, 1

    def __init__(
        self, experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, splits: Splits
    ) -> None:
        """Take a GPU where Ray gave one."""
        super().__init__(experiment, prepared, track, home)
        self.device, self.splits = reserved_device(), splits

    def rows(self, split: str) -> Tensor | None:
        """Return a split that trials before this one in the same process have read already, or read it."""
        if not self.splits:
            return None
        key = (self.prepared.fingerprint, split)
        if key not in _held:
            _held[key] = in_memory(self.splits[split], self.prepared.rows[split], self.prepared.spec)
        return _held[key]

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net on its device."""
        return net.to(self.device)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics, and tell Ray Tune of a validation."""
        super().log(metrics, step)
        if DURING in metrics:
            self.flush()  # ended here, the trial is found again with all its checkpoints
            tune.report({**metrics, "epoch": epoch(self.experiment, self.prepared, step)})


def epoch(experiment: Experiment, prepared: Prepared, step: int) -> int:
    """Return the epochs that a number of optimizer steps makes."""
    return round(step * experiment.data.batch_size / prepared.rows["train"])


def trial(config: Mapping[str, Any], *, task: Task) -> None:
    """Train and measure one point. What goes wrong is a result like others: to try again would not mend it."""
    experiment, prepared = parse(json.loads(config["experiment"])), Prepared.load(task.prepared)
    track = RunLogger(task.tracker, config["run_id"])
    home = run_directory.save(experiment, track.run_id)
    result = home / RESULT
    if not result.exists():
        try:
            if config.get("until"):
                tune.report(_leg(config, experiment, prepared, track, home, task))  # and begun anew from here later
            minutes = config.get("minutes", 0.0)
            metrics = _metrics(experiment, prepared, track, home, task, minutes)
        except (UserError, RunError) as error:
            tune.report({"error": str(error), "reason": getattr(error, "reason", "user")})
            return
        except Exception as error:  # a bug in a family is one trial's bad luck, not the end of the sweep
            tune.report({"error": f"{type(error).__name__}: {error}", "reason": type(error).__name__})
            return
        track.drained(DRAIN_SECONDS)  # a trial with a result is never told of again
        if refused := track.refusal():
            tune.report({"error": refused, "reason": "tracking"})
            return
        write_whole(result, json.dumps(metrics))
    tune.report({**json.loads(result.read_text(encoding="utf-8")), "epoch": experiment.training.epochs, "ended": True})


def _leg(
    config: Mapping[str, Any], experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task
) -> dict[str, Any]:
    """Train until an epoch where the trial is to wait, and return what it is compared by there."""
    minutes = _train(experiment, prepared, track, home, task, until=config["until"]) + config.get("minutes", 0.0)
    loss = checkpoint.position(checkpoint_store.checkpoint_of(home, "last"))["validation_nats"]
    return {DURING: loss, "train/minutes": minutes, "epoch": config["until"], "waits": True}


def _train(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, *, until: int | None = None
) -> float:
    """Train here or, by several workers, on Ray Train. Return the minutes that took."""
    began = time.monotonic()
    train = _train_here if experiment.scaling.num_workers == 1 else _train_on_workers
    train(experiment, prepared, track, home, task, until)
    return (time.monotonic() - began) / 60


def _metrics(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, before: float
) -> dict[str, float]:
    """Return what a trial comes to, trained to its end and measured. It was trained so many minutes before."""
    minutes, alone = before + _train(experiment, prepared, track, home, task), experiment.scaling.num_workers == 1
    trained, out = checkpoint_store.checkpoint_of(home, experiment.evaluation.checkpoint), home / run_directory.ARTIFACT
    if alone:
        report = measure_checkpoint(task.cpus, experiment.resolved(), prepared.folder, trained, out, home.name)
    else:
        report = evaluate(experiment, prepared, trained, out, run_id=home.name)
    record(track, report, home)
    track.log({"train/minutes": minutes}, 0)
    for picture in report["pictures"].values():
        (home / SAMPLES).write_bytes(grids.png(picture))
    loss = checkpoint.position(trained)["validation_nats"]  # of this attempt or, where that found all done, an earlier
    return {DURING: loss, **report["metrics"], "train/minutes": minutes, "train/steps": report["steps"]}


def _train_here(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, until: int | None
) -> None:
    torch.set_num_threads(task.cpus)
    with closing(TrialSession(experiment, prepared, track, home, task.splits)) as session:
        fit(experiment, experiment.model(prepared.spec), session, until=until)


def _train_on_workers(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, until: int | None
) -> None:
    """Have Ray Train's workers train, and tell Ray Tune of every validation."""
    from gen_ray.cluster.training.trainer import fit_with_retries

    with ThreadPoolExecutor(1) as aside:
        fitting = aside.submit(fit_with_retries, experiment, prepared, track, splits=task.splits, until=until)
        told = None
        try:
            while not fitting.done():
                time.sleep(LOOK_SECONDS)
                done, _, newest = track.look()
                if newest.get(DURING) != told:
                    told = newest[DURING]
                    tune.report({DURING: told, "epoch": epoch(experiment, prepared, done)})
        except SystemExit:  # stopped early
            track.stop()
            raise
        wrong = fitting.result()
    if wrong:
        raise fault(**wrong)
