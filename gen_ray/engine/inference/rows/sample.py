"""Samples in files: rows of a table, also under conditions, or images and texts in Parquet files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.rows import chains
from gen_ray.engine.inference.rows.blocks import RowRange
from gen_ray.engine.inference.rows.conditional import ConditionalDraws, order_of_columns
from gen_ray.engine.inference.rows.conditions import RowConditions, only_code
from gen_ray.engine.inference.rows.files import CSV, encode_file, example_table
from gen_ray.engine.inference.rows.impute import MAIN
from gen_ray.engine.inference.rows.results import BlockResult
from gen_ray.engine.inference.rows.texts import as_texts
from gen_ray.maths.chain import Chain
from gen_ray.tabular import codec


@dataclass(frozen=True, kw_only=True)
class SampleTask:
    """The settings of samples in files.

    ``plan`` finds how conditions are satisfied: ``first`` is that of ``ConditionalDraws``, ``fixed`` are the values
    (1,) of columns that have only one.
    """

    suffix: str
    seed: int
    sampler: str | None = None
    steps: int | None = None
    conditions: RowConditions = field(default_factory=RowConditions)
    first: tuple[int, ...] = ()
    fixed: dict[int, pa.Array] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return everything that the output depends on."""
        where = list(self.conditions.texts.values())
        names = ("suffix", "seed", "sampler", "steps")
        return {**{name: getattr(self, name) for name in names}, "where": where}

    @property
    def imputes(self) -> bool:
        """Return whether an imputer is used, because some values are known before."""
        return bool(self.conditions.known or self.first)

    def chain(self, model: Model) -> Chain:
        """Return the sampler, or the imputer if there are known values. Raise UserError for an unknown one."""
        if self.imputes:
            return model.family.impute(self.sampler or next(iter(model.family.imputers())), self.steps)
        return model.experiment.chain(model.family, self.sampler, self.steps)

    def named_sampler(self, model: Model) -> tuple[str, int]:
        """Return the name of the sampler or imputer, with its options, and its number of steps."""
        known = model.family.imputers() if self.imputes else model.family.samplers()
        default = next(iter(known)) if self.imputes else model.experiment.sampler(model.family)
        name = self.sampler or default
        steps = self.steps or (None if self.imputes or self.sampler else model.experiment.evaluation.steps)
        return name, steps or known[name.partition(":")[0]].default_steps

    def run(self, model: Model, device: torch.device, block: RowRange) -> BlockResult:
        """Return the samples of a block."""
        rows = np.arange(block.first, block.first + block.rows)
        with autocast(model.experiment.training.precision, device):
            if not model.spec.is_table:
                x = chains.draw(model, self.chain(model), rows, self.seed, device)
                table = example_table(block.first, x, model.spec)
                return BlockResult(block.index, block.rows, {MAIN: encode_file(table, self.suffix)})
            draws = ConditionalDraws(
                conditions=self.conditions, chain=self.chain(model), seed=self.seed, first=self.first
            )
            drawn = draws.run(model, rows, device)
        table = self._values(model, drawn.codes.astype(np.int64), rows)
        statistics = {"candidates": drawn.candidates}
        return BlockResult(block.index, block.rows, {MAIN: encode_file(table, self.suffix)}, statistics)

    def _values(self, model: Model, codes: np.ndarray, rows: np.ndarray) -> pa.Table:
        """Return the values of codes (n, D) that satisfy the conditions."""
        spec = model.spec
        u = chains.decoding_uniforms(rows, self.seed, spec.dims)
        self.conditions.select_allowed(codes, u)
        table = codec.decode(codes, spec.columns, u)
        for d, value in self.fixed.items():
            table = table.set_column(d, spec.columns[d].name, value.take(pa.array(np.zeros(len(rows), np.int64))))
        if self.suffix != CSV:
            return table
        texts = [
            as_texts(table.column(d).combine_chunks(), column.name, column) for d, column in enumerate(spec.columns)
        ]
        return pa.table(texts, names=table.schema.names)


def plan(task: SampleTask, model: Model, device: torch.device) -> SampleTask:
    """Return a task that satisfies its conditions in the best way that the model has.

    A causal imputer does not use known columns after an unknown one, so that its rows have to be rejected instead.
    """
    conditions = task.conditions
    fixed = {d: value for d, (_, value) in conditions.known.items()}
    if any(imputer.causal for imputer in model.family.imputers().values()):
        columns = model.spec.columns
        only = {d: only_code(columns[d], code) for d, (code, _) in conditions.known.items()}
        conditions = replace(conditions, known={}, allowed={**only, **conditions.allowed})
    return replace(task, conditions=conditions, fixed=fixed, first=order_of_columns(model, conditions, device))


def describe(task: SampleTask, model: Model) -> list[str]:
    """Return a line for each condition of a planned task that says how it is satisfied."""
    ways = {
        **dict.fromkeys(task.conditions.known, "known value, kept by the imputer"),
        **dict.fromkeys(task.conditions.allowed, "by rejection of other rows"),
        **dict.fromkeys(task.first, "drawn before other columns, from its exact distribution"),
    }
    return [f"{task.conditions.texts[d]}: {way}" for d, way in sorted(ways.items())]
