"""Scores and completions of images and texts in files."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.rows import chains
from gen_ray.engine.inference.rows.examples import ExampleBlock
from gen_ray.engine.inference.rows.files import encode_file, example_table
from gen_ray.engine.inference.rows.impute import MAIN
from gen_ray.engine.inference.rows.results import BlockResult
from gen_ray.engine.inference.rows.score import SHOWN, Bits
from gen_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ExampleScores:
    """The settings of scores of images or texts: bits per dimension with the family's effort."""

    suffix: str
    effort: int
    seed: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return everything but the files that the output depends on."""
        return {"suffix": self.suffix, "effort": self.effort, "seed": self.seed}

    def run(self, model: Model, device: torch.device, block: ExampleBlock) -> BlockResult:
        """Return the scores of a block. Raise UserError for missing values."""
        if (missing := (block.x < 0).reshape(block.rows, -1).any(1)).any():
            raise UserError(f"{block.names[int(missing.argmax())]}: has missing values; fill them with gen-ray impute")
        stored = block.x.astype(model.spec.storage_dtype)
        found = Bits.of(model, stored, self.effort, (self.seed, block.first), device)
        bits = found.rows / model.spec.dims
        top = [[float(bits[i]), block.names[i]] for i in np.argsort(-bits, kind="stable")[:SHOWN]]
        table = pa.table({"name": list(block.names), "bits_per_dim": bits})
        statistics = {"bits": float(bits.sum()), "rows": block.rows, "kind": found.kind, "top": top}
        return BlockResult(block.index, block.rows, {MAIN: encode_file(table, self.suffix)}, statistics)


def summary(statistics: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return lines on the statistics of all blocks: the mean, and the most unusual examples."""
    blocks = list(statistics)
    mean = sum(block["bits"] for block in blocks) / sum(block["rows"] for block in blocks)
    top = sorted(((-bits, name) for block in blocks for bits, name in block["top"]))[:SHOWN]
    lines = [f"{name}: {-bits:.4f} bits/dim" for bits, name in top]
    return [f"mean {mean:.4f} bits/dim ({blocks[0]['kind']})", *lines]


@dataclass(frozen=True, kw_only=True)
class ExampleCompletions:
    """The settings of completions of images or texts: k of each, which keep the known values.

    ``missing`` (*shape), if given, is True where a value is missing in all examples. Completion j of example i is a
    function of (seed, i·k + j).
    """

    k: int
    seed: int
    imputer: str | None = None
    steps: int | None = None
    missing: np.ndarray | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return everything but the files that the output depends on."""
        missing = None if self.missing is None else hashlib.sha256(self.missing.tobytes()).hexdigest()
        return {"k": self.k, "seed": self.seed, "imputer": self.imputer, "steps": self.steps, "missing": missing}

    def run(self, model: Model, device: torch.device, block: ExampleBlock) -> BlockResult:
        """Return the completions of a block, in long form. Examples without missing values occur once, unchanged."""
        x = block.x if self.missing is None else np.where(self.missing, -1, block.x)
        incomplete = np.any((x < 0).reshape(len(x), -1), axis=1)
        places = np.repeat(np.arange(len(x)), np.where(incomplete, self.k, 1))
        first = np.searchsorted(places, np.arange(len(x)))
        completion = np.arange(len(places)) - first[places]
        made, drawn = x[places], incomplete[places]
        numbers = ((block.first + places) * self.k + completion)[drawn]
        chain = model.family.impute(self.imputer or next(iter(model.family.imputers())), self.steps)
        with autocast(model.experiment.training.precision, device):
            made[drawn] = chains.draw(model, chain, numbers, self.seed, device, made[drawn])
        table = _completions(
            [block.names[i] for i in places.tolist()], block.first + places, completion, made, model.spec
        )
        return BlockResult(block.index, block.rows, {MAIN: encode_file(table, ".parquet")})


def _completions(names: list[str], rows: np.ndarray, completion: np.ndarray, x: np.ndarray, spec: DataSpec) -> pa.Table:
    """Return examples (n, *shape) as rows: their names, the numbers of example and completion, values and texts."""
    table = example_table(0, x, spec)
    columns = {"name": pa.array(names), "row": pa.array(rows), "completion": pa.array(completion)}
    return pa.table(columns | {name: table.column(name) for name in table.schema.names if name != "row"})
