"""Checks of the address at which Ray Serve listens: whether it is free, and whether the application may use it."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.serve.context import _get_global_client  # Serve's public API does not return the proxies' address
from ray.serve.schema import ApplicationStatus
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gen_ray.cluster.nodes.connect import alive
from gen_ray.cluster.nodes.ports import LOOPBACK, reserve, url
from gen_ray.cluster.serving.args import NAME
from gen_ray.errors import UserError, argument

HEAD = "node:__internal_head__"
GONE = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DELETING)
INGRESS = "ingress"


@contextmanager
def admitted(host: str, port: int, *, keys: bool, replace: bool) -> Iterator[None]:
    """Hold the cluster's lock for starting an application, and check the address.

    Raise UserError if another command holds the lock, or if the address cannot be used.
    """
    try:
        claim = ray.remote(_Claim).options(num_cpus=0, name="gen_ray_serve", namespace="gen_ray").remote()
    except ValueError:  # an actor of that name exists; it ends with its driver
        raise UserError("another gen-ray serve is starting on this cluster; try again when it has started") from None
    try:
        _admit(host, port, keys=keys, replace=replace)
        yield
    finally:
        ray.kill(claim)


class _Claim:
    """An actor whose name serves as a lock."""


def _admit(host: str, port: int, *, keys: bool, replace: bool) -> None:
    """Raise UserError if the cluster already serves another application or listens at another address."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        _probe(host, port)
        return
    at = client.http_config
    where = url(at.host, at.port)
    _refuse_another(where, replace=replace)
    if at.port != port or (at.host != host and {at.host, host} - set(LOOPBACK)):
        raise UserError(
            f"Ray Serve of this cluster listens at {where} and cannot change that while it runs; use "
            f"{argument('host', at.host)} {argument('port', at.port)}, or end it first "
            f"({argument('stop')} of gen-ray serve, or serve shutdown)",
            field="port" if at.port != port else "host",
            value=port if at.port != port else host,
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
        f"{argument('replace')} puts the new application in its place, {argument('stop')} of gen-ray serve ends it"
    )


def _probe(host: str, port: int) -> None:
    """Raise UserError if the port is in use on the cluster's head, where Serve will listen."""
    [head] = [node["NodeID"] for node in alive() if HEAD in node["Resources"]]
    where = NodeAffinitySchedulingStrategy(head, soft=False)
    fault = ray.get(ray.remote(_fault).options(num_cpus=0, scheduling_strategy=where).remote(host, port))
    if fault:
        raise UserError(f"{fault} (on the cluster's head)")


def _fault(host: str, port: int) -> str:
    try:
        with reserve(host, port):
            return ""
    except UserError as error:
        return str(error)


def check_lock(host: str) -> None:
    """Raise UserError for an application without keys if Serve's proxies do not listen on loopback only."""
    if host not in LOOPBACK:
        raise UserError(
            f"Ray Serve listens on {host}, which others can reach, and the application has no API keys: set "
            "GEN_RAY_API_KEYS=name:key (key_hashes of the application), or start Serve on 127.0.0.1"
        )


def listening() -> str:
    """Return the host on which Serve's proxies listen. To be called in a replica."""
    return str(_get_global_client().http_config.host)
