"""Imputation of hidden cells by a model and by other methods: the same rows and cells, and the minutes of each."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import imputation, table_values
from gen_ray.engine.evaluation.hidden_cells import hidden_cells
from gen_ray.engine.evaluation.imputation import ImputationScores, Imputed, by_model, scores
from gen_ray.engine.evaluation.imputation_baselines import BASELINES
from gen_ray.engine.inference.artifact import Model

MODEL = "the model"
"""Name of the model among the methods."""


@dataclass(frozen=True, kw_only=True)
class ImputationPlan:
    """The kinds of masks, the share of hidden cells, the completions of each row, and the methods to compare with."""

    kinds: Sequence[str]
    share: float = 0.3
    k: int = 20
    seed: int = 0
    methods: Sequence[str] = tuple(BASELINES)


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """The scores of a method at a kind of mask, and its minutes: learning (other methods) and imputing."""

    kind: str
    method: str
    minutes: float
    scores: ImputationScores

    def figures(self) -> dict[str, Any]:
        """Return all figures by name."""
        return {"kind": self.kind, "method": self.method, "minutes": self.minutes, **asdict(self.scores)}


def compare(
    model: Model, train: np.ndarray, test: np.ndarray, plan: ImputationPlan, *, device: torch.device
) -> Iterator[MethodScores]:
    """Yield the scores of every method at every kind of mask on test (M, D); others learn from train (N, D), codes.

    The true values and the ones that other methods see are drawn values of the stored codes, the same for all.
    """
    spec, ordered = model.spec, table_values.ordered(model.spec.columns)
    learned, truth = (table_values.matrix(x, spec, seed=plan.seed + i) for i, x in enumerate((train, test)))
    deviations = imputation.standard_deviations(learned, ordered)
    for kind in plan.kinds:
        hidden = hidden_cells(test, spec, kind, share=plan.share, seed=plan.seed)
        visible = np.where(hidden, np.nan, truth)
        methods: dict[str, Callable[[], Imputed]] = {
            MODEL: lambda hidden=hidden: by_model(model, test, hidden, plan.k, seed=plan.seed, device=device),  # type: ignore[misc]
            **{name: _baseline(name, learned, visible, ordered, plan.seed) for name in plan.methods},
        }
        for name, impute in methods.items():
            start = time.monotonic()
            imputed = impute()
            minutes = (time.monotonic() - start) / 60
            found = scores(imputed, truth, hidden, ordered, deviations)
            yield MethodScores(kind=kind, method=name, minutes=minutes, scores=found)


def _baseline(
    name: str, learned: np.ndarray, visible: np.ndarray, ordered: np.ndarray, seed: int
) -> Callable[[], Imputed]:
    def impute() -> Imputed:
        filled = BASELINES[name](learned, visible, ordered, seed)
        return Imputed(mean=filled, median=filled)

    return impute


def provenance(spec: DataSpec, plan: ImputationPlan, rows: Mapping[str, int]) -> dict[str, Any]:
    """Return how the figures were measured."""
    return {
        "data": spec.name,
        "share": plan.share,
        "k": plan.k,
        "seed": plan.seed,
        "train_rows": rows["train"],
        "test_rows": rows["test"],
        "interval": imputation.LEVEL,
        "errors": "in standard deviations of the column's training values",
    }
