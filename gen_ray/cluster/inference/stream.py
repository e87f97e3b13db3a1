"""Blocks of rows through Ray Data: a list of blocks, and one worker with the model for each core or GPU."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gen_ray.cluster.evaluation.evaluate import unwrap_error
from gen_ray.cluster.inference.reading import RemoteReader
from gen_ray.cluster.jobs.waiting import awaited, missing
from gen_ray.cluster.nodes.connect import available_resources, joined
from gen_ray.cluster.nodes.device import reserved_device
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows.blocks import Blocks
from gen_ray.engine.inference.rows.results import BlockResult, RowTask
from gen_ray.errors import RunError, UserError

ASSIGNED = 2
"""Blocks that a worker has or waits for: the next one is ready when it has computed one."""


class Worker:
    """An actor with a model on its device. It computes on one thread, because more would change the last bits."""

    def __init__(self, reader: Any) -> None:
        """Load the model. reader is the actor of the blocks."""
        torch.set_num_threads(1)
        self.device, self.reader = reserved_device(), reader
        model, self.task = unwrap_error(reader.get_job.remote())
        self.model: Model = unwrap_error(model)
        self.model.net.to(self.device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the result of a block as an object, or an error for the user, to which Ray itself would add lines."""
        try:
            block = unwrap_error(self.reader.block.remote(int(batch["item"][0])))
            result: BlockResult | Exception = self.task.run(self.model, self.device, block)
        except (UserError, RunError) as error:
            result = error
        cell = np.empty(1, object)
        cell[0] = result
        return {"result": cell}


def run_on_cluster(
    model: Model, task: RowTask[Any], blocks: Blocks, skip: frozenset[int], workers: int | None
) -> Iterator[BlockResult]:
    """Yield the results of the blocks that are not in skip, in any order, from workers processes (None: all).

    A result does not depend on the process that computes it. A lost worker's block is computed again. The workers
    fetch the content of blocks when they start to compute them, so that few blocks are in memory at a time. Raise the
    error of a worker; RunError if workers are lost repeatedly with the same block.
    """
    with joined(workers or 1):
        configure()
        resources = available_resources()
        kind = "GPU" if resources.get("GPU") else "CPU"
        numbers = [index for index in range(len(blocks)) if index not in skip]
        most = max(1, int(resources.get(kind, 1)))
        pool = min(workers or most, most, len(numbers))
        lacking = missing({kind: 1})
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        reader = RemoteReader.options(scheduling_strategy=here).remote(blocks, skip, (ray.put(model), task))
        found = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            Worker,
            batch_size=1,
            fn_constructor_args=(reader,),
            num_cpus=0 if kind == "GPU" else 1,
            num_gpus=1 if kind == "GPU" else 0,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=pool, initial_size=pool, max_tasks_in_flight_per_actor=ASSIGNED
            ),
        )
        yield from _results(found, lambda: lacking and f"waits for {lacking}")


def _results(found: "ray.data.Dataset", reason: Callable[[], str]) -> Iterator[BlockResult]:
    """Yield the results of a data set; reason returns why the first one takes long."""
    rows = iter(found.iter_rows())
    while (row := _next(rows, reason)) is not None:
        reason = str
        if isinstance(row["result"], Exception):
            raise row["result"]
        yield row["result"]


def _next(rows: Iterator[Any], reason: Callable[[], str]) -> Any:
    """Return the next row, or None at the end. Raise a worker's own error without Ray's wrapper."""
    try:
        return awaited(lambda: next(rows, None), reason)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def configure() -> None:
    """Make Ray Data quiet. Results arrive in any order, because waiting for a slow block would hold all later ones."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and shown in one line
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = False
