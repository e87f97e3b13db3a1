"""A tiny experiment and two ways to run it: through Ray Train, and in this process for comparison."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from gen_ray import run_directory
from gen_ray.cluster.data.blocks import Streamed, cached
from gen_ray.cluster.tracking.logger_actor import LoggerActor, RunLogger
from gen_ray.cluster.training.trainer import trainer
from gen_ray.cluster.training.worker import train_worker
from gen_ray.configuration.overrides import merge
from gen_ray.datasets.prepare import prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.datasets.shards import load_split
from gen_ray.engine.training import checkpoint_store
from gen_ray.engine.training.batches import InMemoryBatches
from gen_ray.engine.training.loop import fit
from gen_ray.engine.training.session import LocalSession
from gen_ray.experiment import Experiment, parse
from gen_ray.storage.paths import current_version

TINY = {
    "name": "tiny",
    "family": {"name": "vae", "latent_dim": 4, "net": {"name": "mlp", "hidden": [16]}},
    "data": {"source": "digits", "batch_size": 128, "cache": "memory"},
    "training": {
        "epochs": 1,
        "seed": 3,
        "learning_rate": 1e-3,
        "precision": "float32",
        "ema_decay": 0.9,
        "log_every_steps": 5,
        "checkpoint_every_seconds": 0,
    },
    "scaling": {"cpus_per_worker": 1, "use_gpu": False},
    "evaluation": {"samples": 64, "likelihood_rows": 32, "effort": 2},
}


def tiny(storage: Path, **sections: Mapping[str, Any]) -> Experiment:
    """Return the tiny experiment, changed by sections, with its runs below storage."""
    raw = parse({**TINY, "storage": {"root": str(storage)}}).resolved()
    merge(raw, sections)
    return parse(raw)


class InMemoryLoggerActor(LoggerActor):
    """A logger actor that keeps metrics and errors in memory and does not send them to MLflow."""

    def __init__(self) -> None:
        super().__init__(None, Path())
        self.metrics: list[tuple[int, dict[str, float]]] = []

    def log(self, run_id: str, metrics: Mapping[str, float], step: int, at: int) -> None:
        super().log(run_id, metrics, step, at)
        self.metrics.append((step, dict(metrics)))

    def report_fatal(self, run_id: str, fault: dict[str, str]) -> None:
        raise AssertionError(fault)

    def logged_metrics(self) -> list[tuple[int, dict[str, float]]]:
        return self.metrics


def through_ray(
    experiment: Experiment,
    prepared: Prepared,
    run_id: str,
    loop: Callable[[Mapping[str, Any]], Any] = train_worker,
    **extra: Any,
) -> tuple[dict[str, torch.Tensor], list[tuple[int, dict[str, float]]]]:
    """Train without evaluation; return the EMA weights and the logged metrics."""
    mute = ray.remote(InMemoryLoggerActor).options(num_cpus=0).remote()
    trainer(experiment, prepared, RunLogger(mute, run_id), loop, cached(experiment, prepared), **extra).fit()
    last = checkpoint_store.checkpoints(run_directory.folder(experiment, run_id)).last()
    assert last is not None
    return weights(last), ray.get(mute.logged_metrics.remote())


def in_this_process(
    experiment: Experiment, prepared: Prepared, *, streamed: bool = False
) -> tuple[dict[str, torch.Tensor], LocalSession]:
    """Train without Ray Train and without tracking; return the EMA weights and the session."""
    place = {
        "batch_size": experiment.data.batch_size,
        "seed": experiment.training.seed,
        "accumulation_steps": experiment.training.gradient_accumulation_steps,
    }
    splits = {
        name: Streamed(prepared.shards(name), **place)
        if streamed
        else InMemoryBatches(torch.from_numpy(load_split(prepared, name)[0]), **place)
        for name in ("train", "validation")
    }
    session, threads = LocalSession(splits), torch.get_num_threads()
    torch.set_num_threads(experiment.scaling.cpus_per_worker)
    try:
        return fit(experiment, experiment.model(prepared.spec), session).state_dict(), session
    finally:
        torch.set_num_threads(threads)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the EMA weights of a checkpoint or artifact."""
    from safetensors.torch import load

    files = current_version(checkpoint)  # on an object store the files of the current version
    [file] = [p for p in (files / "ema.safetensors", files / "weights.safetensors") if p.exists()]
    return load(file.read_bytes())


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Return whether two state dictionaries are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def sharded(storage: Path, rows_bytes: int = 64 * 100) -> Prepared:
    """Return the digits in shards of about a hundred rows."""
    return prepare("digits", out=storage / "data-sharded", shard_bytes=rows_bytes)
