"""What an application of Ray Serve is told, in Python or in the YAML of ``serve deploy``."""

from typing import Annotated

from pydantic import Field

from gen_ray.configuration.base import LONGEST_SECONDS, Config
from gen_ray.experiment import Root
from gen_ray.serving.limits import RequestLimits
from gen_ray.serving.settings import Host
from gen_ray.storage.paths import default

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
NAME = "gen_ray"
"""Of the application, by which Ray Serve knows it."""


class ServedModel(Config):
    """One model: where it is, what each replica has, and how many there are."""

    model: str
    """A run's id or name, an artifact folder, or models:/NAME@champion, whose versions are followed."""
    min_replicas: int = Field(1, ge=1, le=1000)
    max_replicas: int = Field(1, ge=1, le=1000)
    cpus: float = Field(1, ge=0, le=10_000)
    gpus: float = Field(0, ge=0, le=1)
    """Of each replica; a share of one, of its memory too, where several fit."""
    backlog_seconds: float = Field(20, gt=0, le=LONGEST_SECONDS)
    """Of work that may wait at a replica; what comes then is told to come again (429)."""
    target_backlog_seconds: float = Field(2, gt=0, le=LONGEST_SECONDS)
    """More than this a replica, and there will be more replicas."""


class ServingApplication(Config):
    """All that is served by one application."""

    models: Annotated[dict[str, ServedModel], Field(min_length=1)]
    root: Root = Field(default_factory=default)
    """storage.root of the runs; machines of a cluster share it."""
    tracking_uri: str | None = None
    follow_seconds: float = Field(10, gt=0, le=LONGEST_SECONDS)
    """How often the registry is asked for a newer champion."""
    limits: RequestLimits = RequestLimits()
    key_hashes: dict[str, Digest] = Field(default_factory=dict)
    """SHA-256 of the keys by name; beside those of GEN_RAY_API_KEYS in the ingress's environment."""
    require_keys: bool = False
    """Whether the application refuses to start where neither of the two names a key."""
    require_signatures: bool = False
    """Whether replicas refuse to start without GEN_RAY_SIGNING_KEY."""
    hosts: tuple[Host, ...] = ()
    """Names by which the server may be addressed, besides this machine's own."""
    ingress_replicas: int = Field(1, ge=1, le=1000)
    requests_at_once: int = Field(128, ge=1, le=100_000)
    """At each ingress, streams included, divided among the keys; further ones are refused (429)."""
