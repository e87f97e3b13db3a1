"""Runs a task over blocks in this process."""

from collections.abc import Iterator
from typing import Any

import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.fingerprint import one_thread
from gen_ray.engine.inference.rows.blocks import Blocks
from gen_ray.engine.inference.rows.results import BlockResult, RowTask


def run_here(
    model: Model, task: RowTask[Any], blocks: Blocks, skip: frozenset[int], device: torch.device
) -> Iterator[BlockResult]:
    """Yield the results of all blocks that are not in skip.

    Computation is on one thread, as in the workers of a cluster, because more would change the last bits.
    """
    with one_thread():
        for block in blocks.read(skip):
            yield task.run(model, device, block)
