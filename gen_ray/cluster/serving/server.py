"""Serving from the command line: starts and ends Ray, Serve's proxy and the application."""

import logging
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray import serve
from ray.experimental import (
    internal_kv as kv,  # shared by all drivers of a cluster, and kept after Serve's controller has ended
)
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from gen_ray.cluster.nodes import environment, ports
from gen_ray.cluster.nodes.connect import alive, joined
from gen_ray.cluster.serving import endpoint, messages
from gen_ray.cluster.serving.app import build
from gen_ray.cluster.serving.args import NAME, ServingApplication
from gen_ray.errors import RunError, UserError, first_line

OWNER = b"gen_ray_serve_owner"
"""Key in Ray's internal store for the id of the command that deployed the application."""


@contextmanager
def served(
    app: ServingApplication,
    host: str,
    port: int,
    *,
    detached: bool = False,
    replace: bool = False,
    extra_cpus: float = 0,
) -> Iterator[str]:
    """Serve an application until the block ends, and yield its address; detached leaves it running.

    A new local Ray gets ``extra_cpus`` additional cores. Raise UserError if something else is served there,
    RunError with the model's reason if the application cannot be served.
    """
    for key, value in environment.SERVE.items():
        os.environ.setdefault(key, value)
    own = not _shared()
    if own and detached:
        raise UserError("needs a cluster on which the application can stay; set RAY_ADDRESS", field="detach")
    cpus = sum(max(1, int(model.cpus * model.max_replicas)) for model in app.models.values())
    with ports.reserve(host, port) if own else nullcontext(), joined(cpus + math.ceil(extra_cpus)):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it logs every step
        keys = bool(app.key_hashes)
        with nullcontext() if own else endpoint.admitted(host, port, keys=keys, replace=replace):
            owner = _deploy(app, host, port)
        stays = False
        try:
            yield ports.url(host, port)
            stays = detached
        finally:
            if not stays and kv._internal_kv_get(OWNER) == owner:  # otherwise another command has replaced it
                _end()


def _shared() -> bool:
    """Return whether the application runs on a Ray that other programs use too."""
    return "RAY_ADDRESS" in os.environ or ray.is_initialized()


def _deploy(app: ServingApplication, host: str, port: int) -> bytes:
    """Start Serve and the application, and return the owner id that the cluster stores. Raise UserError, RunError."""
    owner = secrets.token_bytes(8)
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config={"enable_access_log": False})
        serve.run(build(app), name=NAME, route_prefix="/")
    except RayServeException as error:
        raise UserError(f"cannot be served: {getattr(error, 'cause', error)}") from None
    except RuntimeError as error:
        reason = _reason(error)
        _end()
        raise RunError(f"cannot be served: {reason}") from None
    except BaseException:  # such as Ctrl-C while the models are loaded
        _end()
        raise
    kv._internal_kv_put(OWNER, owner)
    return owner


def _end() -> None:
    """End the application after its last requests, and also Serve unless other applications use it."""
    messages.drop_expected()
    serve.delete(NAME)
    if not set(serve.status().applications) - {NAME}:
        serve.shutdown()


def stop() -> bool:
    """End the cluster's application after its last requests; return whether one was running."""
    if not _shared():
        raise UserError("needs the cluster on which the application runs; set RAY_ADDRESS", field="stop")
    with joined(1):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if NAME not in serve.status().applications:
            return False
        _end()
        return True


def _reason(error: RuntimeError) -> str:
    """Return the last error of a deployment's constructor, or else the first line of Serve's error."""
    status = serve.status().applications.get(NAME)
    output = "\n".join(deployment.message for deployment in status.deployments.values()) if status else ""
    faults = [line for line in output.splitlines() if re.match(r"\S*(Error|Exception): ", line)]
    return faults[-1].rpartition("Error: ")[2] if faults else first_line(error)


def nodes() -> list[str]:
    """Return the HOST:PORT at which each node of the cluster publishes its Prometheus metrics."""
    return [f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in alive()]
