"""Samples of a table under conditions: columns drawn from their marginals before all others, or rejected rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import RequestHandle
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.rows import sample
from gen_ray.engine.inference.rows.conditional import MOST_ATTEMPTS, ConditionalDraws
from gen_ray.engine.inference.rows.conditions import RowConditions
from gen_ray.engine.inference.rows.files import CSV
from gen_ray.engine.inference.rows.sample import SampleTask
from gen_ray.errors import RunError, UserError
from gen_ray.serving.loaded_model import LoadedModel
from gen_ray.serving.service import ServingJob


@dataclass(frozen=True, kw_only=True)
class ConditionalSamples:
    """Rows (n, D), codes, that satisfy conditions, with the facts of the response."""

    codes: np.ndarray
    facts: Mapping[str, Any]
    """sampler, steps and nfe; a line for each condition that says how it is satisfied; the number of candidates."""


def is_searched(loaded: LoadedModel, conditions: RowConditions) -> bool:
    """Return whether rows have to be searched. Given values of exact models are instead the known part of a chain."""
    return bool(conditions.allowed) or not loaded.exact_conditions


def search_task(job: ServingJob, sampler: str | None, steps: int | None) -> SampleTask:
    """Return the search of rows under a job's conditions, before its plan."""
    assert job.conditions is not None
    return SampleTask(suffix=CSV, seed=job.seed, sampler=sampler, steps=steps, conditions=job.conditions)


def submit_search(loaded: LoadedModel, job: ServingJob, task: SampleTask, deadline: float) -> RequestHandle:
    """Submit the search of job.n rows. Its result is ConditionalSamples. Its network calls join the batch.

    The rows are those of ``gen-ray sample --where`` with the same seed.
    """

    def work(net: Any) -> ConditionalSamples:
        return _search(loaded, replace(loaded.model, net=net), task, job.n)

    return loaded.batcher.submit_callable(
        work,
        job.n * task.chain(loaded.model).nfe,
        reduced_precision=True,
        padded=job.deterministic,
        deadline=deadline,
        key=job.key,
    )


def _search(loaded: LoadedModel, model: Model, task: SampleTask, n: int) -> ConditionalSamples:
    """Return n rows. Raise UserError if the candidates that the work limit allows do not contain them."""
    device = loaded.batcher.device
    with autocast(model.experiment.training.precision, device):
        task = sample.plan(task, model, device)
        chain = task.chain(model)
        attempts = int(loaded.limits.work / (n * chain.nfe * model.spec.dims))
        draws = ConditionalDraws(
            conditions=task.conditions,
            chain=chain,
            seed=task.seed,
            first=task.first,
            attempts=max(1, min(MOST_ATTEMPTS, attempts)),
        )
        try:
            found = draws.run(model, np.arange(n), device)
        except RunError as error:
            raise UserError(str(error)) from None
    name, steps = task.named_sampler(model)
    facts = {
        "sampler": name,
        "steps": steps,
        "nfe": chain.nfe,
        "where": sample.describe(task, model),
        "candidates": found.candidates,
    }
    return ConditionalSamples(codes=found.codes.astype(model.spec.storage_dtype), facts=facts)
