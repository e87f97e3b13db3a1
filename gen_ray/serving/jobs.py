"""The jobs of the verbs: submission to the batcher and conversion of the results.

N instances, n completions of each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import latent, score
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import OnPreview, RequestHandle
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.score import effort_of
from gen_ray.errors import UserError
from gen_ray.maths.chain import Chain, Known
from gen_ray.maths.sampler import Sampler
from gen_ray.serving.condition_jobs import is_searched, search_task, submit_search
from gen_ray.serving.loaded_model import LoadedModel
from gen_ray.serving.service import ErrorReply, RequestRefusedError, ServingJob
from gen_ray.serving.table_jobs import CellStatistics, drawn_statistics, source_note, submit_statistics

REPEATS = 5
"""Independent estimates of a likelihood; their spread gives its standard error."""
ADAPTIVE_EVALUATIONS = 300
"""Approximate network evaluations of an adaptive solver, for the estimate of the backlog."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class PendingJob:
    """A submitted job: its request handle, the conversion of its result, and metadata for the response."""

    handle: RequestHandle
    arrays: Callable[[Any], Arrays]
    sampler: str | None = None
    steps: int | None = None
    nfe: int = 1
    notes: Callable[[Any], Mapping[str, Any]] = field(default=lambda result: {})
    view: Callable[[Tensor], np.ndarray] = field(default=lambda samples: samples.numpy())
    """Conversion of samples, or of a preview of them, to the array of the response."""
    statistics: RequestHandle | None = None
    """The handle of the exact statistics of a table's missing cells."""
    drawn_statistics: Callable[[Any], CellStatistics] | None = None
    """The same statistics from the result, for models without exact ones."""

    def cancel(self) -> None:
        """Cancel the job; its rows leave the batch before the next evaluation."""
        for handle in (self.handle, self.statistics):
            if handle is not None:
                handle.cancel_request()


SubmitFunction = Callable[[LoadedModel, ServingJob, float, OnPreview | None], PendingJob]
"""A verb's function: it submits a job to the batcher of a loaded model, with a deadline of time.monotonic.

It raises UserError if the model cannot do the job, RequestRefusedError if the job exceeds the limits, BusyError if the
queue is full.
"""


def submit_sample(loaded: LoadedModel, job: ServingJob, deadline: float, watch: OnPreview | None) -> PendingJob:
    """Draw job.n samples, with previews to watch."""
    family = loaded.model.family
    sampler, steps = _sampler_and_steps(loaded, job)
    if job.conditions is not None and is_searched(loaded, job.conditions):
        return _submit_search(loaded, job, deadline)
    chain, known = family.chain(sampler, steps), family.samplers()
    _check_rows(loaded, job.n, chain)
    about = known[sampler.partition(":")[0]]
    given = None if job.x is None else _known_rows(job.x, job.mask, job.n)
    handle = _submit_sampling(loaded, job, chain, job.n, given, about.adaptive, deadline, watch)
    return _sampling_job(handle, sampler, _reported_steps(about, steps), chain, lambda samples: samples.numpy())


def _submit_search(loaded: LoadedModel, job: ServingJob, deadline: float) -> PendingJob:
    """Search for job.n rows of a table under conditions, without previews."""
    chosen = (job.sampler, job.steps) if job.quality is None else _sampler_and_steps(loaded, job)
    task = search_task(job, *chosen)
    _check_rows(loaded, job.n, task.chain(loaded.model))
    return PendingJob(
        handle=submit_search(loaded, job, task, deadline),
        arrays=lambda found: {"samples": found.codes},
        notes=lambda found: found.facts,
    )


def submit_impute(loaded: LoadedModel, job: ServingJob, deadline: float, watch: OnPreview | None) -> PendingJob:
    """Draw job.n completions of each instance, with previews to watch."""
    family, x = loaded.model.family, _instances(job)
    if job.mask is None or job.mask.shape != x.shape:
        raise UserError("mask: must have the shape of the instances to complete")
    known, n = family.imputers(), job.n
    name = job.sampler or next(iter(known))
    chain = family.impute(name, job.steps)
    _check_rows(loaded, n * len(x), chain)
    complete = job.mask.reshape(len(x), -1).all(1)
    if complete.all() if loaded.model.spec.is_table else complete.any():
        raise UserError("mask: nothing is missing in an instance; mark the places to fill in")
    statistics = submit_statistics(loaded, job, deadline)
    try:
        handle = _submit_sampling(loaded, job, chain, n * len(x), _known_rows(x, job.mask, n), False, deadline, watch)
    except BaseException:
        if statistics is not None:
            statistics.cancel_request()
        raise
    shape = (len(x), n, *x.shape[1:])
    steps = _reported_steps(known[name.partition(":")[0]], job.steps)
    pending = _sampling_job(handle, name, steps, chain, lambda samples: samples.numpy().reshape(shape))
    return _with_statistics(pending, loaded, job, statistics) if job.statistics else pending


def _with_statistics(
    pending: PendingJob, loaded: LoadedModel, job: ServingJob, exact: RequestHandle | None
) -> PendingJob:
    """Return a job whose result includes the statistics of a table's missing cells: exact ones, or from the draws."""
    x = _instances(job)
    drawn = None if exact else lambda samples: drawn_statistics(loaded.model, x, pending.view(samples), job.seed)
    note = source_note(loaded, job.n)
    return replace(pending, statistics=exact, drawn_statistics=drawn, notes=lambda samples: {"statistics": note})


def _known_rows(x: np.ndarray, mask: np.ndarray | None, n: int) -> Known:
    """Return the known part of n samples of each instance x (N, *shape); missing values of tables become 0."""
    assert mask is not None
    known, mask_rows = torch.from_numpy(x).clamp(min=0), torch.from_numpy(mask)
    return Known(known=known.repeat_interleave(n, 0), mask=mask_rows.repeat_interleave(n, 0))


def _submit_sampling(
    loaded: LoadedModel,
    job: ServingJob,
    chain: Chain,
    rows: int,
    known_rows: Known | None,
    adaptive: bool,
    deadline: float,
    watch: OnPreview | None,
) -> RequestHandle:
    batcher, padded = loaded.batcher, job.deterministic
    if adaptive:  # one tick of it would be a whole solution and delay all other requests
        work = partial(generate, chain=chain, n=rows, seed=job.seed, device=batcher.device)
        evaluations = rows * ADAPTIVE_EVALUATIONS
        return batcher.submit_callable(
            work, evaluations, reduced_precision=True, padded=padded, deadline=deadline, key=job.key
        )
    return batcher.submit(
        chain,
        rows,
        seed=job.seed,
        known=known_rows,
        padded=padded,
        deadline=deadline,
        on_preview=watch,
        previews=job.previews if watch else 0,
        key=job.key,
    )


def _sampling_job(
    handle: RequestHandle, name: str, steps: int | None, chain: Chain, view: Callable[[Tensor], np.ndarray]
) -> PendingJob:
    return PendingJob(
        handle=handle,
        sampler=name,
        steps=steps,
        nfe=chain.nfe,
        view=view,
        arrays=lambda samples: {"samples": view(samples)},
    )


def submit_score(loaded: LoadedModel, job: ServingJob, deadline: float, watch: OnPreview | None) -> PendingJob:
    """Estimate the likelihood of each instance."""
    x, model = torch.from_numpy(_instances(job)), loaded.model
    effort = effort_of(model, job.effort)
    by_cell = model.spec.dims if loaded.exact_conditions else 0
    evaluations = len(x) * (REPEATS * effort + by_cell)
    _check_work(loaded, len(x), evaluations * model.spec.dims)

    def work(net: Any) -> score.InstanceScores:
        device = loaded.batcher.device
        return score.score(replace(model, net=net), x, effort=effort, repeats=REPEATS, seed=job.seed, device=device)

    return PendingJob(
        handle=loaded.batcher.submit_callable(
            work, evaluations, padded=job.deterministic, deadline=deadline, key=job.key
        ),
        nfe=REPEATS * effort,
        arrays=partial(_score_arrays, model.spec),
        notes=lambda scores: {"kind": scores.kind, "nfe": scores.nfe * scores.repeats},
    )


def _score_arrays(spec: DataSpec, scores: score.InstanceScores) -> Arrays:
    """Return the arrays of scores; for tables with the bits of rows and cells."""
    arrays = {"bits_per_dim": scores.bits_per_dim.numpy(), "standard_error": scores.standard_error.numpy()}
    if not spec.is_table:
        return arrays
    cells = {} if scores.cells is None else {"cells": scores.cells.numpy()}
    return {**arrays, "bits": arrays["bits_per_dim"] * spec.dims, **cells}


def submit_latent(
    work: Callable[[Model, ServingJob, torch.device], Arrays],
    loaded: LoadedModel,
    job: ServingJob,
    deadline: float,
    watch: OnPreview | None,
) -> PendingJob:
    """Submit a function of the latent verbs, such as ``encode``. Raise UserError for a model without latent space."""
    latent.latent_family(loaded.model)
    rows = len(job.z if job.z is not None else _instances(job))
    _check_work(loaded, rows, rows * loaded.model.spec.dims)

    def run(net: Any) -> Arrays:
        return work(replace(loaded.model, net=net), job, loaded.batcher.device)

    handle = loaded.batcher.submit_callable(run, 2 * rows, padded=job.deterministic, deadline=deadline, key=job.key)
    return PendingJob(handle=handle, arrays=lambda arrays: arrays)


def encode(model: Model, job: ServingJob, device: torch.device) -> Arrays:
    """Return mu and log_var (N, Z) of the instances."""
    posterior = latent.encode(model, torch.from_numpy(_instances(job)), seed=job.seed, device=device)
    return {"mu": posterior.mu.cpu().numpy(), "log_var": posterior.log_var.cpu().numpy()}


def decode(model: Model, job: ServingJob, device: torch.device) -> Arrays:
    """Return samples (N, *shape) decoded from latent vectors."""
    dim = latent.latent_family(model).latent_dim
    if job.z is None or job.z.ndim != 2 or job.z.shape[1] != dim:
        raise UserError(f"z: must be lists of {dim} numbers, the latent dimensions of this model")
    return {"samples": latent.decode(model, torch.from_numpy(job.z).to(device)).numpy()}


def reconstruct(model: Model, job: ServingJob, device: torch.device) -> Arrays:
    """Return reconstructions (N, *shape) of the instances."""
    mu = latent.encode(model, torch.from_numpy(_instances(job)), seed=job.seed, device=device).mu
    return {"samples": latent.decode(model, mu).numpy()}


def _sampler_and_steps(loaded: LoadedModel, job: ServingJob) -> tuple[str, int | None]:
    """Return the sampler and the number of steps of a job."""
    if job.quality is None:
        if job.sampler is None:
            return loaded.default_sampler, job.steps or loaded.default_steps
        return job.sampler, job.steps
    if job.sampler is not None or job.steps is not None:
        raise UserError("quality: chooses sampler and steps; give either quality, or sampler and steps")
    if job.quality not in loaded.release.quality:
        raise UserError(
            "quality: no curve was measured for this version; gen-ray promote measures one. Give sampler and steps"
        )
    choice = loaded.release.quality[job.quality]
    return choice.sampler, choice.steps


def _reported_steps(about: Sampler, steps: int | None) -> int | None:
    """Return the steps to report: the requested number, or the sampler's default."""
    return about.default_steps if steps is None else steps


def _instances(job: ServingJob) -> np.ndarray:
    if job.x is None or not len(job.x):
        raise UserError(f"{job.verb}: needs at least one instance")
    return job.x


def _check_rows(loaded: LoadedModel, rows: int, chain: Chain) -> None:
    _check_work(loaded, rows, rows * chain.nfe * loaded.model.spec.dims)


def _check_work(loaded: LoadedModel, rows: int, work: float) -> None:
    """Raise RequestRefusedError 422 if a job exceeds the limits. Called before anything is allocated for it."""
    limits = loaded.limits
    checks = (
        ("n", "samples in all", rows, limits.n),
        ("work", "samples x network evaluations x scalars of a sample", work, limits.work),
    )
    for name, unit, value, most in checks:
        if value > most:
            message = f"{name}: {value:,.0f} {unit}; the maximum is {most:,.0f}"
            raise RequestRefusedError(ErrorReply(status=422, code="too_much", message=message))
