"""The statistics of the missing cells of a table: mean, median, most probable value and 90 % interval of each.

They come from the exact marginals of the model where it has them, otherwise from the completions. N rows of D columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import RequestHandle
from gen_ray.engine.inference.rows import chains, statistics
from gen_ray.engine.inference.rows.statistics import CellSummary, Fill
from gen_ray.engine.inference.table_rows import as_json
from gen_ray.serving.loaded_model import LoadedModel
from gen_ray.serving.service import ServingJob
from gen_ray.tabular.columns import MISSING, BaseColumn

COVERAGE = 0.9
FEWEST_DRAWS = 19
"""Completions from which on intervals are given: the outer ones of fewer cover less than 90 %."""
EXACT = "exact marginals"

CellStatistics = Sequence[Mapping[str, Mapping[str, Any]]]
"""For each of N rows: the statistics of its missing cells by column, as JSON."""


def submit_statistics(loaded: LoadedModel, job: ServingJob, deadline: float) -> RequestHandle | None:
    """Submit the statistics of the missing cells of job.x (N, D); None for models without exact marginals."""
    x = job.x
    if not (job.statistics and loaded.exact_conditions) or x is None:
        return None

    def work(net: Any) -> CellStatistics:
        return exact_statistics(replace(loaded.model, net=net), x, loaded.batcher.device)

    return loaded.batcher.submit_callable(work, len(x), padded=job.deterministic, deadline=deadline, key=job.key)


def exact_statistics(model: Model, codes: np.ndarray, device: torch.device) -> CellStatistics:
    """Return the statistics of the missing cells of codes (N, D), -1 where missing, from the model's marginals."""
    found: list[dict[str, Any]] = [{} for _ in codes]
    for part in chains.batches(len(codes), chains.batch_rows(model.spec)):
        p = chains.marginals(model, codes[part], device)
        assert p is not None, "the caller has checked that the family has marginals"
        for d, column in enumerate(model.spec.columns):
            at = np.flatnonzero(codes[part, d] == MISSING)
            mine = p[torch.from_numpy(at).to(p.device), d, : column.cardinality].cpu().numpy()
            _add(found, part.start + at, column, partial(statistics.of_marginals, column, mine))
    return found


def drawn_statistics(model: Model, codes: np.ndarray, samples: np.ndarray, seed: int) -> CellStatistics:
    """Return the statistics of the missing cells of codes (N, D), from their completions (N, n, D) of a seed."""
    N, n, D = samples.shape
    u = chains.decoding_uniforms(np.arange(N * n), seed, D).reshape(N, n, D)
    found: list[dict[str, Any]] = [{} for _ in codes]
    for d, column in enumerate(model.spec.columns):
        at = np.flatnonzero(codes[:, d] == MISSING)
        mine = samples[at, :, d].astype(np.int64), u[at, :, d]
        _add(found, at, column, partial(statistics.of_draws, column, *mine), intervals=n >= FEWEST_DRAWS)
    return found


def source_note(loaded: LoadedModel, n: int) -> str:
    """Return the note that says what the statistics of n completions are computed from."""
    if loaded.exact_conditions:
        return EXACT
    return f"{n} completions" + ("" if n >= FEWEST_DRAWS else f"; intervals need n of at least {FEWEST_DRAWS}")


def _add(
    found: list[dict[str, Any]],
    rows: np.ndarray,
    column: BaseColumn,
    summarise: Callable[[Fill, float], CellSummary],
    *,
    intervals: bool = True,
) -> None:
    """Add the statistics of one column's missing cells to those of their rows (M,)."""
    if not len(rows):
        return
    mode = summarise("mode", COVERAGE)
    fields = {"mode": as_json(mode.values)}
    if column.ordered:
        fields = {
            "mean": as_json(summarise("mean", COVERAGE).values),
            "median": as_json(summarise("median", COVERAGE).values),
            **fields,
        }
        if intervals:
            fields |= {"low": as_json(mode.low), "high": as_json(mode.high)}
    else:
        assert mode.probability is not None
        fields["probability"] = mode.probability.tolist()
    for i, row in enumerate(rows.tolist()):
        found[row][column.name] = {name: values[i] for name, values in fields.items()}
