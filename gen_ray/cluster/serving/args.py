"""Arguments of the Ray Serve application, in Python or in the YAML of ``serve deploy``."""

from typing import Annotated

from pydantic import Field

from gen_ray.configuration.base import LONGEST_SECONDS, Config
from gen_ray.experiment import Root
from gen_ray.serving.service import RequestLimits
from gen_ray.serving.settings import Host
from gen_ray.storage.paths import default

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
NAME = "gen_ray"
"""Name of the application in Ray Serve."""


class ServedModel(Config):
    """One served model: its source, the resources of each replica, and the number of replicas."""

    model: str
    """A run's id or name, an artifact folder, or models:/NAME@champion, which follows the champion."""
    min_replicas: int = Field(1, ge=1, le=1000)
    max_replicas: int = Field(1, ge=1, le=1000)
    cpus: float = Field(1, ge=0, le=10_000)
    gpus: float = Field(0, ge=0, le=1)
    """GPUs of each replica. A fraction is a share of one GPU and of its memory."""
    backlog_seconds: float = Field(20, gt=0, le=LONGEST_SECONDS)
    """Maximum seconds of work queued at a replica; further requests are refused (429)."""
    target_backlog_seconds: float = Field(2, gt=0, le=LONGEST_SECONDS)
    """Queued seconds of work per replica above which replicas are added."""


class ServingApplication(Config):
    """All models and settings of one application."""

    models: Annotated[dict[str, ServedModel], Field(min_length=1)]
    root: Root = Field(default_factory=default)
    """storage.root of the runs; all machines of the cluster share it."""
    tracking_uri: str | None = None
    follow_seconds: float = Field(10, gt=0, le=LONGEST_SECONDS)
    """Seconds between checks of the registry for a newer champion."""
    limits: RequestLimits = RequestLimits()
    key_hashes: dict[str, Digest] = Field(default_factory=dict)
    """SHA-256 of API keys by name, in addition to GEN_RAY_API_KEYS in the ingress's environment."""
    require_keys: bool = False
    """Whether the application refuses to start if neither key_hashes nor GEN_RAY_API_KEYS has a key."""
    require_signatures: bool = False
    """Whether replicas refuse to start without GEN_RAY_SIGNING_KEY."""
    hosts: tuple[Host, ...] = ()
    """Accepted host names of the server, in addition to localhost."""
    ingress_replicas: int = Field(1, ge=1, le=1000)
    requests_at_once: int = Field(128, ge=1, le=100_000)
    """Maximum concurrent requests at each ingress, including streams, divided among the keys; others get 429."""
