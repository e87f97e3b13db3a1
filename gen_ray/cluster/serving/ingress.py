"""The ingress deployment: the HTTP API in front of the models' handles.

Keys are passed as hashes. Logs are written to files below storage.root.
"""

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
from gen_ray.storage.paths import local_dir


class Ingress:
    """The deployment that Ray Serve's proxies call."""

    def __init__(self, handles: Mapping[str, DeploymentHandle], raw: dict[str, Any]) -> None:
        """Serve the models of handles, with the settings of the application."""
        self._handles, self._app = handles, ServingApplication.model_validate(raw)
        self._settings = api_settings(self._app, endpoint.listening())

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Ray Serve calls this method in the replica."""
        logs.write(local_dir(self._app.root) / "serving")
        services = {name: RayModelService(handle) for name, handle in self._handles.items()}
        return api.build(services, self._settings)


def api_settings(app: ServingApplication, listening: str) -> settings.ApiSettings:
    """Return the API settings of the application and of this process's environment.

    Raise UserError if keys are required but missing. This check also protects ``serve deploy``.
    """
    loaded = settings.from_environment(os.environ)
    hashed = tuple(settings.ApiKey(name, bytes.fromhex(digest)) for name, digest in app.key_hashes.items())
    known = {key.name: key for key in (*loaded.keys, *hashed)}
    if app.require_keys and not known:
        raise UserError(f"require_keys: the application has no API keys; set {settings.KEYS}=name:key for its replicas")
    if not known:
        endpoint.check_lock(listening)
    return loaded.model_copy(
        update={
            "keys": tuple(known.values()),
            "hosts": (*loaded.hosts, *app.hosts),
            "requests_at_once": app.requests_at_once,
            "longest_deadline_seconds": app.limits.deadline_seconds,
        }
    )
