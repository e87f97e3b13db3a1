"""The door: HTTP before the models' handles. Keys come as hashes; what is logged goes to files below storage.root."""

import os
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from gen_ray.cluster.serving import endpoint, logs
from gen_ray.cluster.serving.args import ServingApplication
from gen_ray.cluster.serving.ray_model_service import RayModelService
from gen_ray.errors import UserError
from gen_ray.serving import api, settings
from gen_ray.storage.paths import beside


class Ingress:
    """What Ray Serve's proxies call."""

    def __init__(self, handles: Mapping[str, DeploymentHandle], raw: dict[str, Any]) -> None:
        """Know the models by their handles."""
        self._handles, self._app = handles, ServingApplication.model_validate(raw)
        self._door = api_settings(self._app, endpoint.listening())

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Ray Serve asks for it in the replica."""
        logs.write(beside(self._app.root) / "serving")
        desks = {name: RayModelService(handle) for name, handle in self._handles.items()}
        return api.build(desks, self._door)


def api_settings(app: ServingApplication, listening: str) -> settings.ApiSettings:
    """Return the settings of the door: those of the application and those of this process's environment.

    Raise UserError where it would be open although it must not be: that covers ``serve deploy`` too.
    """
    found = settings.from_environment(os.environ)
    hashed = tuple(settings.ApiKey(name, bytes.fromhex(digest)) for name, digest in app.key_hashes.items())
    known = {key.name: key for key in (*found.keys, *hashed)}
    if app.require_keys and not known:
        raise UserError(f"require_keys: the application is without keys; set {settings.KEYS}=name:key for its replicas")
    if not known:
        endpoint.check_lock(listening)
    return found.model_copy(
        update={
            "keys": tuple(known.values()),
            "hosts": (*found.hosts, *app.hosts),
            "requests_at_once": app.requests_at_once,
            "longest_deadline_seconds": app.limits.deadline_seconds,
        }
    )
