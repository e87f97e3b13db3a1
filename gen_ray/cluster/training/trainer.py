"""One training on Ray Train, retried if workers or controllers are lost."""

import logging
import os
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from gen_ray import run_directory
from gen_ray.cluster.data.reading import Splits
from gen_ray.cluster.nodes.connect import cpus_per_worker, ray_storage, uses_gpu
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.training.torch_backend import CheckedTorchConfig
from gen_ray.cluster.training.worker import train_worker
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import RunError, UserError, argument, last_line
from gen_ray.experiment import Experiment

ROOM_SECONDS = 10.0
"""Time an elastic run waits for resources to replace lost workers before it continues with fewer."""
logger = logging.getLogger(__name__)


def fit_with_retries(
    experiment: Experiment, prepared: Prepared, track: RunLogger, *, splits: Splits, until: int | None = None
) -> dict[str, str]:
    """Train and return the workers' error report. Ray replaces lost workers; lost controllers are replaced here."""
    lost = 0
    while True:
        try:
            fit = trainer(experiment, prepared, track, train_worker, splits, until=until)
            report: dict[str, str] = fit.fit().return_value
        except (ray.train.TrainingFailedError, ray.exceptions.RayTaskError) as error:
            raise user_error(error) from error
        except ray.exceptions.RayActorError as error:
            track.release_placement_group()
            lost += 1
            if lost > experiment.scaling.max_failures:
                remedy = f"{argument('resume')} continues from the last checkpoint"
                message = f"{track.run_id}: the training's controller died; {remedy}"
                raise RunError(message, reason="controller_lost") from error
            logger.warning("%s: the training's controller died; continuing from the last checkpoint", track.run_id)
        else:
            return report


def trainer(
    experiment: Experiment,
    prepared: Prepared,
    track: RunLogger,
    loop: Callable[..., Any],
    splits: Splits,
    **extra: Any,
) -> TorchTrainer:
    """Return a Ray Train trainer that calls loop({experiment, prepared, track, cache, **extra}) on every worker."""
    scaling, gpu = experiment.scaling, uses_gpu(experiment.scaling)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(scaling.hang_seconds)  # the run inherits it
    if scaling.elastic:
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(ROOM_SECONDS)
    task = {
        "experiment": experiment.resolved(),
        "prepared": str(prepared.folder),
        "home": str(run_directory.folder(experiment, track.run_id)),
        "track": track,
        "cache": bool(splits),
    }
    return TorchTrainer(
        loop,
        train_loop_config={**task, **extra},
        torch_config=CheckedTorchConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers,
            elastic_resize_monitor_interval_s=scaling.grow_seconds,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus_per_worker(scaling), **({"GPU": scaling.gpus_per_worker} if gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=track.run_id,
            **ray_storage(experiment.storage.root / "runs"),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures, controller_failure_limit=3),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
        datasets=dict(splits),
        # Every worker reads the whole split and selects its rows by index, so that the order is a function of the seed.
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )


def user_error(error: BaseException) -> Exception:
    """Return the UserError or RunError inside Ray's wrappers, or else a RunError with the innermost message."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or cause in seen:
            continue
        seen.append(cause)
        if isinstance(cause, UserError | RunError) and not isinstance(cause, ray.exceptions.RayTaskError):
            return cause  # a RayTaskError may be an instance of both, but its message is a traceback
        waiting += [getattr(cause, name, None) for name in ("cause", "__cause__", "controller_failure")]
        waiting += list(getattr(cause, "worker_failures", {}).values())
    return RunError(f"training stopped: {last_line(seen[-1])}")
