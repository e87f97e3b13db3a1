"""One trial of a sweep, in a process of Ray Tune: trained there by one worker, or on Ray Train by several."""

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
from gen_ray.cluster.nodes.device import reserved_device
from gen_ray.cluster.sweeps.data import TrialData, data_key
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import record
from gen_ray.cluster.training.session import RunSession
from gen_ray.cluster.training.train import fault
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.plots import grids
from gen_ray.engine.training import checkpoint, checkpoint_store
from gen_ray.engine.training.loop import fit
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import Experiment, parse
from gen_ray.metrics import STEPS, TRAINING_MINUTES
from gen_ray.storage.paths import write_atomic
from gen_ray.sweeps.config import DURING

RESULT, SAMPLES = "result.json", "samples.png"
POLL_SECONDS, DRAIN_SECONDS = 0.5, 5.0
_splits: dict[tuple[str, str], Tensor] = {}
"""Splits (N, *shape) of one data set in this process's memory, shared by all trials that it trains on this data set."""


@dataclass(frozen=True)
class Task:
    """Settings that all trials of a sweep share, and the data of each trial by its ``data_key``."""

    tracker: Any
    data: Mapping[str, TrialData]
    cpus: int

    def of(self, experiment: Experiment) -> TrialData:
        """Return the data of a trial."""
        return self.data[data_key(experiment)]


class TrialSession(RunSession):
    """The session of a single-worker trial: reports each validation to Ray Tune, which may end the trial there."""

    rank, world_size = 0, 1

    def __init__(
        self, experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, splits: Splits
    ) -> None:
        """Create the session on the device that Ray reserved; splits are the cached data sets."""
        super().__init__(experiment, prepared, track, home)
        self.device, self.splits = reserved_device(), splits

    def rows(self, split: str) -> Tensor | None:
        """Return a split (N, *shape), read once per process, or None if it is to be streamed."""
        if not self.splits:
            return None
        key = (self.prepared.fingerprint, split)
        if key not in _splits:
            for other in [other for other in _splits if other[0] != self.prepared.fingerprint]:
                del _splits[other]
            _splits[key] = in_memory(self.splits[split], self.prepared.rows[split], self.prepared.spec)
        return _splits[key]

    def prepare(self, net: nn.Module) -> nn.Module:
        """Return the net on its device."""
        return net.to(self.device)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics, and report a validation to Ray Tune."""
        super().log(metrics, step)
        if DURING in metrics:
            self.flush()  # if the trial ends here, all its checkpoints are written
            tune.report({**metrics, "epoch": epoch(self.experiment, self.prepared, step)})


def epoch(experiment: Experiment, prepared: Prepared, step: int) -> int:
    """Return the epoch after a number of optimizer steps."""
    return round(step * experiment.data.batch_size / prepared.rows["train"])


def trial(config: Mapping[str, Any], *, task: Task) -> None:
    """Train and evaluate one point. Errors are reported as results, because a retry would not fix them."""
    experiment = parse(json.loads(config["experiment"]))
    prepared = Prepared.load(task.of(experiment).folder)
    track = RunLogger(task.tracker, config["run_id"])
    home = run_directory.save(experiment, track.run_id)
    result = home / RESULT
    if not result.exists():
        try:
            if config.get("until"):
                tune.report(_leg(config, experiment, prepared, track, home, task))  # pauses here, continues later
            minutes = config.get("minutes", 0.0)
            metrics = _metrics(experiment, prepared, track, home, task, minutes)
        except (UserError, RunError) as error:
            tune.report({"error": str(error), "reason": getattr(error, "reason", "user")})
            return
        except Exception as error:  # a bug in a family ends only this trial
            tune.report({"error": f"{type(error).__name__}: {error}", "reason": type(error).__name__})
            return
        track.drained(DRAIN_SECONDS)  # a trial with a result is not recorded again
        if refused := track.refusal():
            tune.report({"error": refused, "reason": "tracking"})
            return
        write_atomic(result, json.dumps(metrics))
    tune.report({**json.loads(result.read_text(encoding="utf-8")), "epoch": experiment.training.epochs, "ended": True})


def _leg(
    config: Mapping[str, Any], experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task
) -> dict[str, Any]:
    """Train until the epoch at which the trial pauses, and return the values by which it is compared there."""
    minutes = _train(experiment, prepared, track, home, task, until=config["until"]) + config.get("minutes", 0.0)
    loss = checkpoint.position(checkpoint_store.checkpoint_of(home, "last"))["validation_nats"]
    return {DURING: loss, TRAINING_MINUTES.name: minutes, "epoch": config["until"], "waits": True}


def _train(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, *, until: int | None = None
) -> float:
    """Train in this process or, with several workers, on Ray Train. Return the minutes."""
    began = time.monotonic()
    train = _train_here if experiment.scaling.num_workers == 1 else _train_on_workers
    train(experiment, prepared, track, home, task, until)
    return (time.monotonic() - began) / 60


def _metrics(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, before: float
) -> dict[str, float]:
    """Train a trial to its end, evaluate it, and return its metrics; before is the minutes of earlier training."""
    minutes = before + _train(experiment, prepared, track, home, task)
    trained, out = checkpoint_store.checkpoint_of(home, experiment.evaluated_checkpoint), home / run_directory.ARTIFACT
    if experiment.scaling.num_workers == 1:
        report = measure_checkpoint(task.cpus, experiment.resolved(), prepared.folder, trained, out, home.name)
    else:
        report = evaluate(experiment, prepared, trained, out, run_id=home.name)
    record(track, report, home)
    track.log({TRAINING_MINUTES.name: minutes}, 0)
    for picture in report["pictures"].values():
        (home / SAMPLES).write_bytes(grids.png(picture))
    loss = checkpoint.position(trained)["validation_nats"]  # of the attempt that finished the training
    return {DURING: loss, **report["metrics"], TRAINING_MINUTES.name: minutes, STEPS.name: report["steps"]}


def _train_here(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, until: int | None
) -> None:
    torch.set_num_threads(task.cpus)
    with closing(TrialSession(experiment, prepared, track, home, task.of(experiment).splits)) as session:
        fit(experiment, experiment.model(prepared.spec), session, until_epoch=until)


def _train_on_workers(
    experiment: Experiment, prepared: Prepared, track: RunLogger, home: Path, task: Task, until: int | None
) -> None:
    """Train on Ray Train's workers, and report every validation to Ray Tune."""
    from gen_ray.cluster.training.trainer import fit_with_retries

    splits = task.of(experiment).splits
    with ThreadPoolExecutor(1) as aside:
        fitting = aside.submit(fit_with_retries, experiment, prepared, track, splits=splits, until=until)
        reported = None
        try:
            while not fitting.done():
                time.sleep(POLL_SECONDS)
                done, _, newest = track.latest()
                if newest.get(DURING) != reported:
                    reported = newest[DURING]
                    tune.report({DURING: reported, "epoch": epoch(experiment, prepared, done)})
        except SystemExit:  # stopped early
            track.stop()
            raise
        wrong = fitting.result()
    if wrong:
        raise fault(**wrong)
