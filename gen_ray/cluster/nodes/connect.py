"""Connection to a Ray cluster: the one that RAY_ADDRESS names, or a local one on this machine's cores."""

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
from ray._private.state import state  # the only source of an autoscaler's limits; Ray Train uses it too

from gen_ray.cluster.nodes import environment
from gen_ray.cluster.nodes.start import start
from gen_ray.errors import EndedError, UserError, argument
from gen_ray.experiment import Scaling
from gen_ray.host import ray_token, signals
from gen_ray.storage.paths import is_remote, remote


@contextmanager
def connected(scaling: Scaling) -> Iterator[None]:
    """Use the connected cluster, or else join or start one for the duration of the block."""
    with joined(_booked(scaling)):
        yield


@contextmanager
def joined(cpus: int) -> Iterator[None]:
    """Connect as connected does, for work that reserves cpus cores, which may exceed this machine's."""
    address = os.environ.get("RAY_ADDRESS")
    for key, value in (environment.RAY if address else environment.RAY | environment.LOCAL).items():
        os.environ.setdefault(key, value)
    if ray.is_initialized():
        yield
        return
    on_term = signal.getsignal(signal.SIGTERM)
    if address:
        ray_token.secure()
    else:
        ray_token.ensure()
    start(
        address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=None if address else False,
        num_cpus=None if address else max(os.cpu_count() or 1, cpus),
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray's own handler would skip all cleanup
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def terminable() -> Iterator[None]:
    """Make every terminating signal end Ray Tune in order, as Ctrl-C does, and then raise EndedError.

    An exception that a handler raises while Ray itself waits arrives as a SystemError. Further signals are ignored.
    Tune sets its own handlers and leaves one of them behind: the previous handlers are restored.
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
        name = signals.ended_error(heard[0])
        raise EndedError(f"{name} before all trials were done; {argument('resume')} continues from there", name.code)


def _booked(scaling: Scaling) -> int:
    return scaling.most_workers * (1 if scaling.cpus_per_worker == "auto" else scaling.cpus_per_worker)


def cpus_per_worker(scaling: Scaling) -> int:
    """Return the cores of a worker: as configured, or else an equal share of a machine's cores."""
    if scaling.cpus_per_worker != "auto":
        return scaling.cpus_per_worker
    nodes = [node["Resources"].get("CPU", 0) for node in alive()]
    local = len(nodes) == 1 and "RAY_ADDRESS" not in os.environ
    cores = min(max(nodes), os.cpu_count() or 1) if local else max(nodes)
    return max(1, int(cores) // math.ceil(scaling.most_workers / len(nodes)))


def alive() -> list[dict[str, Any]]:
    """Return Ray's records of the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def uses_gpu(scaling: Scaling) -> bool:
    """Return whether each worker gets a GPU. Raise UserError if GPUs are required and there are too few."""
    available, needed = available_resources().get("GPU", 0.0), scaling.fewest_workers * scaling.gpus_per_worker
    if scaling.use_gpu is True and available < needed:
        raise UserError(
            f"scaling.use_gpu=true: {scaling.fewest_workers} workers need {needed:g} GPUs, "
            f"the cluster has {available:g}"
        )
    return available >= needed if scaling.use_gpu == "auto" else scaling.use_gpu


def available_resources() -> dict[str, float]:
    """Return the cluster's resources, or the autoscaler's limits where they are larger.

    The autoscaler adds machines only on demand, so that a request must not be refused for resources that it may add.
    """
    resources: dict[str, float] = dict(ray.cluster_resources())
    possible = state.get_max_resources_from_cluster_config() or {}
    return resources | {kind: max(resources.get(kind, 0.0), float(most)) for kind, most in possible.items()}


def needs(scaling: Scaling, cpus: int) -> dict[str, float]:
    """Return the resources of the fewest workers of a training, with cpus cores each."""
    gpus = scaling.fewest_workers * scaling.gpus_per_worker if uses_gpu(scaling) else 0.0
    return {"CPU": cpus * scaling.fewest_workers, **({"GPU": gpus} if gpus else {})}


def ray_storage(folder: Path) -> dict[str, Any]:
    """Return Ray Train's and Tune's storage arguments of a folder or URI; a URI uses the client of storage.paths."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    client, path = remote(folder)
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(client))}


def resources() -> str:
    """Return the cluster's CPUs, GPUs and nodes as text."""
    total = ray.cluster_resources()
    return f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs on {len(ray.nodes())} node(s)"
