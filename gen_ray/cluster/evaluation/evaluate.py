"""Evaluation and summary figures as Ray tasks, run where the data and the accelerators are."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gen_ray.cluster.jobs.waiting import awaited, lost, missing, result, started
from gen_ray.cluster.nodes.connect import cpus_per_worker, uses_gpu
from gen_ray.cluster.nodes.device import reserved_device
from gen_ray.datasets.prepared import Prepared
from gen_ray.datasets.random_rows import SEED, random_row_numbers, read_random_rows, read_rows
from gen_ray.engine.evaluation import features
from gen_ray.engine.evaluation.evaluate import evaluate as measure
from gen_ray.engine.evaluation.quality_metrics import MAX_TRAIN_EXAMPLES
from gen_ray.engine.evaluation.reference import REFERENCE_ROWS, ReferenceData
from gen_ray.engine.evaluation.summary_figure import summary_figure, table_figure
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.training import checkpoint, post_hoc_ema
from gen_ray.experiment import Experiment, parse
from gen_ray.metrics import EVALUATION_MINUTES
from gen_ray.run_directory import ARTIFACT

SUMMARY_IMAGES = 4
"""Number of test images that a summary figure completes, one for each position of the unknown region."""


def evaluate(
    experiment: Experiment, prepared: Prepared, checkpoint_folder: Path, out: Path, *, run_id: str
) -> dict[str, Any]:
    """Measure a checkpoint's EMA weights, write the artifact to out, and return the report with the step."""
    return run_on_worker(
        measure_checkpoint, experiment, experiment.resolved(), prepared.folder, checkpoint_folder, out, run_id
    )


def evaluate_artifact(
    experiment: Experiment, prepared: Prepared, folder: Path, *, against: str = "train"
) -> dict[str, Any]:
    """Measure an artifact again with the settings of experiment.evaluation, and return the report."""
    return run_on_worker(_from_artifact, experiment, experiment.resolved(), prepared.folder, folder, against)


def make_summary_figure(experiment: Experiment, prepared: Prepared, folder: Path) -> np.ndarray:
    """Return the summary figure of an artifact, with test images or with rows of the table, uint8 (H, W, 3)."""
    return run_on_worker(_summary_figure, experiment, prepared.folder, folder)


def run_on_worker(task: Any, experiment: Experiment, *args: Any) -> Any:
    """Run task(cpus, *args) in a worker with the resources of all of the experiment's workers; return its result."""
    options = worker_options(experiment)
    needed = {kind: options[name] for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus")) if options[name]}
    remote = ray.remote(_started_and_done).options(**options, num_returns="streaming")
    steps = remote.remote(task, options["num_cpus"], *args)
    start = started(lambda: unwrap_error(next(steps)))
    result(start, lambda: f"{experiment.name}: the evaluation waits for {missing(needed) or 'its worker to start'}")
    return awaited(lambda: unwrap_error(next(steps)))


def _started_and_done(task: Any, *args: Any) -> Iterator[Any]:
    """Yield None once the worker has its resources, then the task's result."""
    yield None
    yield task(*args)


def worker_options(experiment: Experiment) -> dict[str, Any]:
    """Return the Ray options of a task or actor that gets the resources of all of the experiment's workers."""
    one_worker = experiment.scaling.model_copy(update={"num_workers": 1})
    anywhere = PlacementGroupSchedulingStrategy(None)  # not in the small placement group of a sweep's trial
    return {
        "num_cpus": cpus_per_worker(one_worker),
        "num_gpus": one_worker.gpus_per_worker if uses_gpu(one_worker) else 0,
        "scheduling_strategy": anywhere,
    }


def unwrap_error(ref: Any) -> Any:
    """Return a task's result, or raise its own error without Ray's wrapper, whose message is a traceback."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise lost(error) from error


def measure_checkpoint(
    cpus: int, raw: Mapping[str, Any], data: Path, folder: Path, out: Path, run_id: str
) -> dict[str, Any]:
    """Do the work of ``evaluate`` in this process, on cpus of its cores."""
    experiment, prepared, device = parse(raw), Prepared.load(data), device_of(cpus)
    family = experiment.model(prepared.spec)
    net = family.build_net()
    steps = checkpoint.read(folder, nets={"ema": net})["step"]
    net = net.to(device).eval().requires_grad_(False)
    meta = artifact.describe(prepared.spec, prepared.fingerprint, run_id=run_id, steps=steps)
    model = Model(experiment=experiment, family=family, net=net, meta=meta)
    report = _measure(model, prepared, device, "train")
    meta = {**meta, "metrics": report["metrics"], "provenance": report["provenance"]}
    artifact.write(out, replace(model, meta=meta))
    return {**report, "steps": steps}


def _from_artifact(cpus: int, raw: Mapping[str, Any], data: Path, folder: Path, against: str) -> dict[str, Any]:
    device = device_of(cpus)
    model = replace(artifact.load(folder, device=device), experiment=parse(raw))
    return _measure(model, Prepared.load(data), device, against)


def _summary_figure(cpus: int, data: Path, folder: Path) -> np.ndarray:
    device, prepared = device_of(cpus), Prepared.load(data)
    model = artifact.load(folder, device=device)
    if model.spec.is_table:
        rows = model.experiment.evaluation.table_rows
        return table_figure(model, reference_of(prepared, train_rows=rows, test_rows=rows), device=device)
    x, _ = read_random_rows(prepared, "test", SUMMARY_IMAGES)
    return summary_figure(model, torch.from_numpy(x), device=device)


def evaluate_average(
    experiment: Experiment,
    prepared: Prepared,
    home: Path,
    sigma_rel: float,
    *,
    at: int | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure the post-hoc EMA of relative width sigma_rel of a run's folder, and return the report.

    at is a step; the default is the end. The artifact is written to out, if given. Raise UserError if the run kept no
    snapshots.
    """
    return run_on_worker(_from_average, experiment, experiment.resolved(), prepared.folder, home, sigma_rel, at, out)


def _from_average(
    cpus: int, raw: Mapping[str, Any], data: Path, home: Path, sigma_rel: float, at: int | None, out: Path | None
) -> dict[str, Any]:
    device = device_of(cpus)
    weights, trained = post_hoc_ema.average(home, sigma_rel, at), artifact.load(home / ARTIFACT, device=device)
    trained.net.load_state_dict(weights)
    model = replace(trained, experiment=parse(raw), net=trained.net)  # replace: caches of the old weights are dropped
    report = _measure(model, Prepared.load(data), device, "train")
    summary = {name: report[name] for name in ("metrics", "provenance")}
    if out is not None:
        meta = {**model.meta, **summary, "ema": {"kind": "power", "sigma_rel": sigma_rel}}
        artifact.write(out, replace(model, meta=meta))
    return report


def device_of(cpus: int) -> torch.device:
    """Return this worker's device after setting the number of CPU threads."""
    torch.set_num_threads(cpus)
    return reserved_device()


def _measure(model: Model, prepared: Prepared, device: torch.device, against: str) -> dict[str, Any]:
    began = time.monotonic()
    settings = model.experiment.evaluation
    rows = settings.table_rows if model.spec.is_table else 0
    reference = reference_of(prepared, against, train_rows=rows, test_rows=max(rows, settings.likelihood_rows))
    report = measure(model, reference, device=device)
    chain = model.experiment.chain(model.family)
    return {
        "metrics": {**report.metrics, EVALUATION_MINUTES.name: (time.monotonic() - began) / 60},
        "provenance": dict(report.provenance),
        "pictures": dict(report.pictures),
        "texts": dict(report.texts),
        "unmeasured": list(report.unmeasured),
        "sampler": f"{model.experiment.sampler(model.family)}, {chain.nfe} nfe",
    }


def reference_of(
    prepared: Prepared, against: str = "train", *, train_rows: int = 0, test_rows: int = 0
) -> ReferenceData:
    """Return the reference data of an evaluation: seeded choices of rows, and a feature extractor if labels exist.

    It holds at least train_rows and test_rows rows of the splits, or all rows if a split is smaller.
    """
    spec = prepared.spec
    most = max(train_rows, REFERENCE_ROWS if spec.is_image else MAX_TRAIN_EXAMPLES)
    train, labels = read_random_rows(prepared, "train", most)
    test, _ = read_random_rows(prepared, "test", max(REFERENCE_ROWS, test_rows))
    has_classes = spec.is_image and labels is not None and len(np.unique(labels)) > 1
    return ReferenceData(
        train=torch.from_numpy(train),
        test=torch.from_numpy(test),
        rows_seed=SEED,
        fingerprint=prepared.fingerprint[:12],
        reference_split=against,
        extractor=_extractor_of(prepared) if has_classes else None,
        source_fingerprint=prepared.source_fingerprint[:12],
    )


def _extractor_of(prepared: Prepared) -> features.Extractor:
    home = prepared.folder.parent.parent / "extractors" / prepared.fingerprint[:12]
    return features.load_or_train(home, prepared.spec, lambda split: _labelled(prepared, split))


def _labelled(prepared: Prepared, split: str) -> features.Labelled:
    """Return images and labels of a split in stored order; a seeded choice of rows if there are too many."""
    rows = random_row_numbers(prepared.rows[split], features.max_training_rows(prepared.spec))
    x, labels = read_rows(prepared, split, np.sort(rows))
    assert labels is not None, "training an extractor needs labels"
    return torch.from_numpy(x), torch.from_numpy(labels)
