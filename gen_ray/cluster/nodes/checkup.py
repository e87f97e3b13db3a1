"""Inspection of every machine of a cluster by a task on each."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gen_ray.cluster.nodes.connect import alive
from gen_ray.errors import last_line
from gen_ray.host.machine import Machine, inspect_machine
from gen_ray.storage.paths import is_remote, resolve

ANSWER_SECONDS = 60.0
COMPARED = ("python", "ray", "torch", "gen-ray")
"""Packages whose versions must match: otherwise Ray refuses, pickles fail, or checkpoints mean something else."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as seen from a task on it."""

    name: str
    gpus: int
    """Number of GPUs that Ray counts there."""
    machine: Machine | None
    """The task's findings; None if it failed or did not answer."""
    shares: bool = True
    """Whether storage.root there is the same folder as here."""
    fault: str = ""
    """Why the task failed."""

    def problems(self, own: Machine) -> Iterator[str]:
        """Yield each problem of this machine with its remedy; own is this process's machine."""
        if self.machine is None:
            yield f"no task can run there: {self.fault}"
            return
        for name in COMPARED:
            mine, other = own.versions.get(name), self.machine.versions.get(name)
            if mine != other:
                yield f"{name} is {other}, here {mine}: install the same on all machines"
        if self.gpus > len(self.machine.gpus):
            yield (
                f"Ray counts {self.gpus} GPUs, torch (CUDA {self.machine.cuda}) can use {len(self.machine.gpus)}: "
                "install matching versions of driver and torch, or start Ray there without GPUs (num_gpus=0)"
            )
        if not self.shares:
            yield "storage.root is another folder than here: use a shared folder or an object store"


def examine(root: Path) -> list[Node]:
    """Return the machines of the connected cluster, as seen by a task on each.

    root is storage.root. If it exists, it temporarily gets a file, which shows the machines that share it.
    """
    with _marker(root) as marker:
        tasks = {node["NodeID"]: (node, _ask(node["NodeID"], root, marker)) for node in alive()}
        ray.wait([task for _, task in tasks.values()], num_returns=len(tasks), timeout=ANSWER_SECONDS)
        return [_node(node, task) for node, task in tasks.values()]


def _node(node: Mapping[str, Any], task: ray.ObjectRef) -> Node:
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    gpus = int(node["Resources"].get("GPU", 0))
    try:
        return Node(name, gpus, *ray.get(task, timeout=0))
    except ray.exceptions.GetTimeoutError:
        return Node(name, gpus, None, fault=f"no answer within {ANSWER_SECONDS:.0f} s; see its raylet's log")
    except ray.exceptions.RayError as error:  # gen_ray is missing there, or has another version
        return Node(name, gpus, None, fault=last_line(error))


@contextmanager
def _marker(root: Path) -> Iterator[str]:
    """Yield the path of a temporary file in a folder, or "" if it is not a local folder."""
    if is_remote(root) or not root.is_dir():
        yield ""
        return
    with NamedTemporaryFile(dir=root, prefix=".doctor-") as file:
        yield file.name


def _ask(node: str, root: Path, marker: str) -> ray.ObjectRef:
    on_node = NodeAffinitySchedulingStrategy(node, soft=False)
    # max_calls=1: the task removes the hiding of GPUs from its process.
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=on_node)(_inspect)
    return task.remote(str(root), marker)


def _inspect(root: str, marker: str) -> tuple[Machine, bool]:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides all GPUs from this task, which must see them
    return inspect_machine(Path("/") if is_remote(resolve(root)) else Path(root)), not marker or Path(marker).exists()
