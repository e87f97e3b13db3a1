"""Serving from the command line: a Ray of one's own or the cluster's, the proxy, the application, and its end."""

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray import serve
from ray.serve.config import HTTPOptions

from gen_ray.cluster import environment
from gen_ray.cluster.connect import alive, joined
from gen_ray.cluster.serving.app import build
from gen_ray.cluster.serving.args import Application
from gen_ray.errors import RunError

NAME = "gen_ray"


@contextmanager
def served(app: Application, host: str, port: int, *, detached: bool = False, beside: float = 0) -> Iterator[str]:
    """Serve an application for as long as the block lasts, and give its address; detached leaves it running.

    A Ray of one's own has room for so many cores more as beside says.
    Raise RunError where it cannot be served; the models' own words say why.
    """
    for key, value in environment.SERVE.items():
        os.environ.setdefault(key, value)
    cpus = sum(max(1, int(model.cpus * model.max_replicas)) for model in app.models.values())
    with joined(cpus + math.ceil(beside)):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it tells of every step
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config={"enable_access_log": False})
        stays = False
        try:
            _run(app)
            yield f"http://{host if ':' not in host else f'[{host}]'}:{port}"
            stays = detached
        finally:
            if not stays:
                serve.delete(NAME)  # waits until what was begun is done
                if "RAY_ADDRESS" not in os.environ:
                    serve.shutdown()


def _run(app: Application) -> None:
    try:
        serve.run(build(app), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise RunError(f"cannot be served: {_reason(error)}") from None


def stop() -> bool:
    """End what is served on the cluster, when what was begun is done; return whether there was anything."""
    with joined(1):
        if NAME not in serve.status().applications:
            return False
        serve.delete(NAME)
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
