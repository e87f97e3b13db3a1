"""A look at every machine of a cluster, from a task on each."""

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
from gen_ray.host.machine import Machine, look
from gen_ray.storage.paths import is_remote, place

ANSWER_SECONDS = 60.0
COMPARED = ("python", "ray", "torch", "gen-ray")
"""What must be the same everywhere: Ray refuses or pickles fail, or a checkpoint is not what it says."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    gpus: int
    """That Ray counts there."""
    seen: Machine | None
    """None where its task failed or did not answer."""
    shares: bool = True
    """Whether the storage there is the one here."""
    fault: str = ""
    """Why it was not seen."""

    def wrong(self, here: Machine) -> Iterator[str]:
        """Yield what will not work there, and the remedy."""
        if self.seen is None:
            yield f"no task can run there: {self.fault}"
            return
        for name in COMPARED:
            mine, other = here.versions.get(name), self.seen.versions.get(name)
            if mine != other:
                yield f"{name} is {other}, here {mine}: install the same on all machines"
        if self.gpus > len(self.seen.gpus):
            yield (
                f"Ray counts {self.gpus} GPUs, torch (CUDA {self.seen.cuda}) can use {len(self.seen.gpus)}: install a "
                "driver and a torch that go together, or start Ray there with --num-gpus=0"
            )
        if not self.shares:
            yield "storage.root is not the folder that it is here: share it, or name an object store"


def examine(root: Path) -> list[Node]:
    """Return the machines of the cluster that this process is connected to, each as a task there saw it.

    root is storage.root. A file is put there for that moment where the folder exists, to see who shares it.
    """
    with _marker(root) as marker:
        asked = {node["NodeID"]: (node, _ask(node["NodeID"], root, marker)) for node in alive()}
        ray.wait([task for _, task in asked.values()], num_returns=len(asked), timeout=ANSWER_SECONDS)
        return [_node(node, task) for node, task in asked.values()]


def _node(node: Mapping[str, Any], task: ray.ObjectRef) -> Node:
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    gpus = int(node["Resources"].get("GPU", 0))
    try:
        return Node(name, gpus, *ray.get(task, timeout=0))
    except ray.exceptions.GetTimeoutError:
        return Node(name, gpus, None, fault=f"none answered within {ANSWER_SECONDS:.0f} s; see its raylet's log")
    except ray.exceptions.RayError as error:  # gen_ray is not installed there, or another
        return Node(name, gpus, None, fault=str(error).strip().splitlines()[-1])


@contextmanager
def _marker(root: Path) -> Iterator[str]:
    """Give the path of a file that is in a folder for a while; of none where there is no folder to share."""
    if is_remote(root) or not root.is_dir():
        yield ""
        return
    with NamedTemporaryFile(dir=root, prefix=".doctor-") as file:
        yield file.name


def _ask(node: str, root: Path, marker: str) -> ray.ObjectRef:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    # Once a process: it takes the hiding of GPUs away for itself.
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=there)(_look)
    return task.remote(str(root), marker)


def _look(root: str, marker: str) -> tuple[Machine, bool]:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # who books no GPU sees none, but here all are to be looked at
    return look(Path("/") if is_remote(place(root)) else Path(root)), not marker or Path(marker).exists()
