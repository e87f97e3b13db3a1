"""The Ray Serve application: ``build`` is used by ``serve deploy`` and by gen-ray serve."""

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig

from gen_ray.cluster.serving.args import ServedModel, ServingApplication
from gen_ray.cluster.serving.ingress import Ingress
from gen_ray.cluster.serving.replica import Replica

SPARE = 64
"""Concurrent requests at an ingress beyond requests_at_once: health checks, and requests that it refuses by key."""
QUEUED = 1024
"""Requests queued at a proxy for the ingress. The proxy does not know keys, so it should not refuse requests."""
DRAIN_SECONDS = 25.0
HEALTH_SECONDS = 0.5
"""Seconds between health checks of a replica. Only they reveal that a replica has died."""
INGRESS_CPUS = 0
"""CPUs reserved for the ingress. It mostly waits; a reserved core would be missing for the models."""
QUIET = {"enable_access_log": False}
"""Disables Ray Serve's access log; gen_ray writes its own, with key, model and version."""


def build(args: ServingApplication) -> serve.Application:
    """Return the application: one deployment for each model, and the ingress."""
    raw = args.model_dump(mode="json")
    # the ingresses divide requests among the keys, so replicas do not need to refuse any
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
