"""Continuous batching: many requests on one network, one evaluation at a time.

A *sampling request* is n rows along one chain; the rows of all sampling requests share a forward. An *auxiliary task*
is other work on the network (a likelihood, an encoding, an adaptive solver) in a separate thread; its network calls
join the batch where their arguments fit. This package does not use Ray.
"""

from gen_ray.engine.inference.batcher.batcher import Batcher
from gen_ray.engine.inference.batcher.errors import BusyError, CancelledError, DeadlineExceededError, NotFiniteError
from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile, measure
from gen_ray.engine.inference.batcher.requests import OnPreview, Preview, RequestHandle

__all__ = [
    "Batcher",
    "BusyError",
    "CancelledError",
    "DeadlineExceededError",
    "LatencyProfile",
    "NotFiniteError",
    "OnPreview",
    "Preview",
    "RequestHandle",
    "measure",
]
