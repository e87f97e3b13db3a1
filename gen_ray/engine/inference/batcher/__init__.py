"""Many requests on one network, tick by tick: what generate does for a fixed batch, for one that comes and goes.

A *walk* is n rows along one chain; rows of any walks share a forward. A *guest* is other work on the net (a likelihood,
an encoding, an adaptive solver) in a thread of its own, whose calls of the net come along where they fit. No Ray here.
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
