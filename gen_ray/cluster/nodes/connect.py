"""A Ray cluster to work on: the one that RAY_ADDRESS names, or one of this machine's own cores."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state  # what an autoscaler may do is told nowhere else; Ray Train asks it too

from gen_ray.cluster.nodes import environment
from gen_ray.cluster.nodes.start import start
from gen_ray.errors import EndedError, UserError
from gen_ray.experiment import Scaling
from gen_ray.host import ray_token, signals
from gen_ray.storage.paths import is_remote, remote


@contextmanager
def connected(scaling: Scaling) -> Iterator[None]:
    """Use the cluster there is, else join or start one for as long as the block lasts."""
    with joined(_booked(scaling)):
        yield


@contextmanager
def joined(cpus: int) -> Iterator[None]:
    """Do what connected does for work that books so many cores, which this machine need not have."""
    address = os.environ.get("RAY_ADDRESS")
    for key, value in (environment.RAY if address else environment.RAY | environment.ALONE).items():
        os.environ.setdefault(key, value)
    if ray.is_initialized():
        yield
        return
    on_term = signal.getsignal(signal.SIGTERM)
    if address:
        ray_token.secure()
    else:
        ray_token.ready()
    start(
        address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=None if address else False,
        num_cpus=None if address else max(os.cpu_count() or 1, cpus),
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray has put its own there, by which nothing would be closed
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def terminable() -> Iterator[None]:
    """Have every signal that ends a program end Ray Tune as Ctrl-C does, in order, and raise EndedError when it has.

    An exception that a handler raises while Ray itself waits comes out of there as a SystemError. Further signals
    change nothing. Tune sets its handlers and leaves one of them: those before are restored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def interrupt(number: int, _: object) -> None:
        heard.append(number)
        if len(heard) == 1:
            signal.raise_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    for number, handler in before.items():
        if number != signal.SIGINT and handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        name = signals.ended(heard[0])
        raise EndedError(f"{name} before all trials were done: --resume goes on from there", name.code)


def _booked(scaling: Scaling) -> int:
    return scaling.most_workers * (1 if scaling.cpus_per_worker == "auto" else scaling.cpus_per_worker)


def cpus_per_worker(scaling: Scaling) -> int:
    """Return the cores of a worker: an equal share of a machine's cores unless the configuration says how many."""
    if scaling.cpus_per_worker != "auto":
        return scaling.cpus_per_worker
    nodes = [node["Resources"].get("CPU", 0) for node in alive()]
    local = len(nodes) == 1 and "RAY_ADDRESS" not in os.environ
    cores = min(max(nodes), os.cpu_count() or 1) if local else max(nodes)
    return max(1, int(cores) // math.ceil(scaling.most_workers / len(nodes)))


def alive() -> list[dict[str, Any]]:
    """Return what Ray knows of the machines that are there now."""
    return [node for node in ray.nodes() if node["Alive"]]


def uses_gpu(scaling: Scaling) -> bool:
    """Return whether each worker gets a GPU. Raise UserError where GPUs are demanded and there are too few."""
    there, wanted = in_reach().get("GPU", 0.0), scaling.fewest_workers * scaling.gpus_per_worker
    if scaling.use_gpu is True and there < wanted:
        raise UserError(
            f"scaling.use_gpu=true: {scaling.fewest_workers} workers need {wanted:g} GPUs, the cluster has {there:g}"
        )
    return there >= wanted if scaling.use_gpu == "auto" else scaling.use_gpu


def in_reach() -> dict[str, float]:
    """Return what the cluster has or, where that is more, what its autoscaler may make it have.

    Machines that come when they are wanted have to be wanted first: nobody is refused for what is not there yet.
    """
    found: dict[str, float] = dict(ray.cluster_resources())
    possible = state.get_max_resources_from_cluster_config() or {}
    return found | {kind: max(found.get(kind, 0.0), float(most)) for kind, most in possible.items()}


def needs(scaling: Scaling, cpus: int) -> dict[str, float]:
    """Return what the workers that a training cannot do without take together, each so many cores."""
    gpus = scaling.fewest_workers * scaling.gpus_per_worker if uses_gpu(scaling) else 0.0
    return {"CPU": cpus * scaling.fewest_workers, **({"GPU": gpus} if gpus else {})}


def ray_storage(folder: Path) -> dict[str, Any]:
    """Return what Ray Train and Tune are told of a folder or URI: a URI's own client, whatever they would take."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    client, path = remote(folder)
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(client))}


def resources() -> str:
    """Return the cluster's CPUs, GPUs and nodes in words."""
    there = ray.cluster_resources()
    return f"{there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs on {len(ray.nodes())} node(s)"
