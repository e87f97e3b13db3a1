"""Models of tables for tests of imputation, sampling and scoring of files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows.blocks import Blocks
from gen_ray.engine.inference.rows.results import RowTask
from gen_ray.engine.inference.rows.run import run_here
from gen_ray.experiment import parse
from tests import tabular_cases, tabular_joint

CPU = torch.device("cpu")


def perfect_model(kernel: str = "random_order") -> Model:
    """Return the model of the joint of tests/tabular_joint.py with its exact conditionals."""
    net = {"name": "columns_transformer", "width": 16, "depth": 1, "heads": 2}
    experiment = parse({"name": "joint", "family": {"name": "discrete", "kernel": kernel, "net": net}})
    family = experiment.model(tabular_joint.spec())
    return Model(experiment=experiment, family=family, net=tabular_joint.PerfectNet(), meta={})


def untrained_model(values: pa.Table, kernel: str = "random_order") -> Model:
    """Return a small model of a table with random weights."""
    spec, _ = tabular_cases.coded(values)
    net = {"name": "columns", "width": 16, "depth": 1}
    experiment = parse(
        {
            "name": "rows",
            "family": {"name": "discrete", "kernel": kernel, "net": net},
            "training": {"precision": "float32"},
        }
    )
    family = experiment.model(spec)
    torch.manual_seed(0)
    net = family.build_net().eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return Model(
        experiment=experiment, family=family, net=net, meta=artifact.describe(spec, "f" * 64, run_id="x", steps=1)
    )


def output(model: Model, task: RowTask, blocks: Blocks, name: str = "rows") -> list[bytes]:
    """Return the content of the blocks' files."""
    return [result.files[name].content for result in run_here(model, task, blocks, frozenset(), CPU)]


def with_missing(table: pa.Table, share: float, seed: int = 0) -> pa.Table:
    """Return a table in which a share of all cells is null."""
    rng = np.random.default_rng(seed)
    columns = [
        pa.array(column.to_pylist(), column.type, mask=rng.random(len(table)) < share) for column in table.columns
    ]
    return pa.table(columns, names=table.schema.names)


def write_csv(file: Path, table: pa.Table) -> Path:
    """Write a table as CSV with empty cells for nulls."""
    from gen_ray.engine.inference.rows.files import encode_file

    file.write_bytes(encode_file(table, ".csv").content)
    return file
