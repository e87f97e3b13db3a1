"""Serving from the command line: a Ray of one's own or the cluster's, the proxy, the application, and its end."""

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
    internal_kv as kv,  # what all drivers of a cluster see, and what outlives Serve's controller
)
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from gen_ray.cluster.nodes import environment, ports
from gen_ray.cluster.nodes.connect import alive, joined
from gen_ray.cluster.serving import endpoint, messages
from gen_ray.cluster.serving.app import build
from gen_ray.cluster.serving.args import NAME, ServingApplication
from gen_ray.errors import RunError, UserError

OWNER = b"gen_ray_serve_owner"
"""Key under which the cluster keeps which command has deployed the application."""


@contextmanager
def served(
    app: ServingApplication, host: str, port: int, *, detached: bool = False, replace: bool = False, beside: float = 0
) -> Iterator[str]:
    """Serve an application for as long as the block lasts, and give its address; detached leaves it running.

    A Ray of one's own has room for so many cores more as beside says.
    Raise UserError where something else is served there, RunError where it cannot be served; the models' own words
    say why.
    """
    for key, value in environment.SERVE.items():
        os.environ.setdefault(key, value)
    own = not _shared()
    if own and detached:
        raise UserError("--detach: RAY_ADDRESS names no cluster on which the application could stay")
    cpus = sum(max(1, int(model.cpus * model.max_replicas)) for model in app.models.values())
    with ports.held(host, port) if own else nullcontext(), joined(cpus + math.ceil(beside)):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it tells of every step
        keys = bool(app.key_hashes)
        with nullcontext() if own else endpoint.admitted(host, port, keys=keys, replace=replace):
            owner = _deploy(app, host, port)
        stays = False
        try:
            yield ports.url(host, port)
            stays = detached
        finally:
            if not stays and kv._internal_kv_get(OWNER) == owner:  # else another command has replaced it
                _end()


def _shared() -> bool:
    """Return whether the application goes onto a Ray that others use too."""
    return "RAY_ADDRESS" in os.environ or ray.is_initialized()


def _deploy(app: ServingApplication, host: str, port: int) -> bytes:
    """Start Serve and the application, and return what the cluster notes as its owner. Raise UserError, RunError."""
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
    except BaseException:  # Ctrl-C while the models are loaded
        _end()
        raise
    kv._internal_kv_put(OWNER, owner)
    return owner


def _end() -> None:
    """End the application after its last requests, and Serve with it unless other applications use it."""
    messages.drop_expected()
    serve.delete(NAME)
    if not set(serve.status().applications) - {NAME}:
        serve.shutdown()


def stop() -> bool:
    """End the cluster's application after its last requests; return whether one was running."""
    if not _shared():
        raise UserError("--stop: RAY_ADDRESS names no cluster on which an application could be running")
    with joined(1):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if NAME not in serve.status().applications:
            return False
        _end()
        return True


def _reason(error: RuntimeError) -> str:
    """Return the last error that a deployment's constructor told of, or else the first line of Serve's own."""
    status = serve.status().applications.get(NAME)
    said = "\n".join(deployment.message for deployment in status.deployments.values()) if status else ""
    faults = [line for line in said.splitlines() if re.match(r"\S*(Error|Exception): ", line)]
    return faults[-1].rpartition("Error: ")[2] if faults else str(error).strip().splitlines()[0]


def nodes() -> list[str]:
    """Return where each node of the cluster publishes its metrics for Prometheus."""
    return [f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in alive()]
