"""The address at which Ray Serve listens: whether it is free, and whether an application may be served there."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.serve.context import _get_global_client  # Serve's public API does not say where its proxies listen
from ray.serve.schema import ApplicationStatus
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gen_ray.cluster.nodes.connect import alive
from gen_ray.cluster.nodes.ports import LOOPBACK, held, url
from gen_ray.cluster.serving.args import NAME
from gen_ray.errors import UserError

HEAD = "node:__internal_head__"
GONE = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DELETING)
INGRESS = "ingress"


@contextmanager
def admitted(host: str, port: int, *, keys: bool, replace: bool) -> Iterator[None]:
    """Let one command at a time start an application on a cluster. Raise UserError for a second one, and as _admit."""
    try:
        claim = ray.remote(_Claim).options(num_cpus=0, name="gen_ray_serve", namespace="gen_ray").remote()
    except ValueError:  # an actor of that name; it ends with its driver
        raise UserError("another gen-ray serve is starting on this cluster; try again when it answers") from None
    try:
        _admit(host, port, keys=keys, replace=replace)
        yield
    finally:
        ray.kill(claim)


class _Claim:
    """An actor whose name can be taken only once."""


def _admit(host: str, port: int, *, keys: bool, replace: bool) -> None:
    """Raise UserError where the cluster already serves something else, or listens elsewhere than asked."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        _probe(host, port)
        return
    at = client.http_config
    where = url(at.host, at.port)
    _refuse_another(where, replace=replace)
    if at.port != port or (at.host != host and {at.host, host} - set(LOOPBACK)):
        raise UserError(
            f"--host {host} --port {port}: Ray Serve of this cluster listens at {where} and cannot change that while "
            f"it runs; use --host {at.host} --port {at.port}, or end it first (gen-ray serve --stop, serve shutdown)"
        )
    if not keys:
        check_lock(at.host)


def _refuse_another(where: str, *, replace: bool) -> None:
    app = serve.status().applications.get(NAME)
    if app is None or app.status in GONE or replace:
        return
    models = ", ".join(sorted(set(app.deployments) - {INGRESS}))
    raise UserError(
        f"this cluster already serves {models} at {where} (application {NAME}, {app.status.value}): "
        "--replace puts the new application in its place, gen-ray serve --stop ends it"
    )


def _probe(host: str, port: int) -> None:
    """Raise UserError where the head, on which Serve will listen, has another server at that port."""
    [head] = [node["NodeID"] for node in alive() if HEAD in node["Resources"]]
    where = NodeAffinitySchedulingStrategy(head, soft=False)
    fault = ray.get(ray.remote(_fault).options(num_cpus=0, scheduling_strategy=where).remote(host, port))
    if fault:
        raise UserError(f"{fault} (on the cluster's head)")


def _fault(host: str, port: int) -> str:
    try:
        with held(host, port):
            return ""
    except UserError as error:
        return str(error)


def check_lock(host: str) -> None:
    """Raise UserError for an application without keys where Serve's proxies listen on more than loopback."""
    if host not in LOOPBACK:
        raise UserError(
            f"Ray Serve listens on {host}, which others can reach, and the application is without keys: set "
            "GEN_RAY_API_KEYS=name:key (key_hashes of the application), or start Serve on 127.0.0.1"
        )


def listening() -> str:
    """Return the host on which Serve's proxies listen, asked from within a replica."""
    return str(_get_global_client().http_config.host)
