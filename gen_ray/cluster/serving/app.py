"""The application that Ray Serve deploys: ``build`` for ``serve deploy`` and for gen-ray serve alike."""

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig

from gen_ray.cluster.serving.args import ServedModel, ServingApplication
from gen_ray.cluster.serving.ingress import Ingress
from gen_ray.cluster.serving.replica import Replica

SPARE = 64
"""Requests at the ingress beyond requests_at_once: health checks, and those that it refuses itself, key by key."""
QUEUED = 1024
"""Requests that wait at a proxy for the ingress. The proxy does not know keys, so it should refuse none."""
DRAIN_SECONDS = 25.0
HEALTH_SECONDS = 0.5
"""How often the controller asks a replica whether it is well. Only so does it notice that one has died."""
INGRESS_CPUS = 0
"""Of the ingress, which mostly waits: a core for it would be a core less for a net."""
QUIET = {"enable_access_log": False}
"""Ray Serve's own line for each request; ours says who asked for what."""


def build(args: ServingApplication) -> serve.Application:
    """Return one deployment for each model, and the ingress before them."""
    raw = args.model_dump(mode="json")
    # the ingresses have divided them among the keys, so that no replica needs to refuse any
    at_once = args.ingress_replicas * (args.requests_at_once + SPARE)
    models = {id: _deployment(id, served, at_once).bind(id, raw) for id, served in args.models.items()}
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="ingress",
        num_replicas=args.ingress_replicas,
        max_ongoing_requests=args.requests_at_once + SPARE,
        max_queued_requests=QUEUED,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        health_check_period_s=HEALTH_SECONDS,
        logging_config=QUIET,
    )
    return ingress.bind(models, raw)


def _deployment(id: str, served: ServedModel, at_once: int) -> serve.Deployment:
    number: dict[str, Any] = {"num_replicas": served.min_replicas}
    if served.max_replicas > served.min_replicas:
        number = {"autoscaling_config": _scaled(served)}
    return serve.deployment(Replica).options(
        name=id,
        max_ongoing_requests=at_once,
        max_queued_requests=at_once,
        ray_actor_options={"num_cpus": served.cpus, "num_gpus": served.gpus},
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        health_check_period_s=HEALTH_SECONDS,
        logging_config=QUIET,
        max_constructor_retry_count=2,
        **number,
    )


def _scaled(served: ServedModel) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=served.min_replicas,
        max_replicas=served.max_replicas,
        look_back_period_s=3,
        upscale_delay_s=3,
        downscale_delay_s=60,
        policy=AutoscalingPolicy(policy_function="gen_ray.cluster.serving.scaling:by_backlog"),
    )
