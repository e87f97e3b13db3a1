"""Peak memory of some work: torch's allocations on a GPU, or the resident memory of the process on a CPU."""

import gc
import resource
from collections.abc import Callable
from typing import Any

import torch

from gen_ray.bench.gpu.alternating import Conditions, Repeat

MIB = 2**20
CALLS = 2
"""Number of calls after which memory has peaked: an optimizer allocates its state at the first step."""


def peak(conditions: Conditions, build: Callable[[], Repeat]) -> dict[str, Any]:
    """Return the peak memory in MiB of the objects that build makes and of its first calls, without earlier memory."""
    if conditions.device.type != "cuda":
        build()(CALLS)
        return {"process_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB}
    conditions.finish()
    release(conditions.device)
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    build()(CALLS)
    conditions.finish()
    return {
        "allocated_mib": (torch.cuda.max_memory_allocated() - allocated) / MIB,
        "reserved_mib": (torch.cuda.max_memory_reserved() - reserved) / MIB,
    }


def release(device: torch.device) -> None:
    """Release the GPU memory of unused objects."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
