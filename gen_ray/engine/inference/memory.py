"""Compares the memory that a result needs with the available memory before the work; recognises memory errors."""

from pathlib import Path

import psutil
import torch

from gen_ray.errors import UserError

GIB = 2**30
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""For each version of Linux control groups: folder, file of the limit, file of the usage, key of the freeable usage."""
OTHER_ALLOCATORS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
)
"""Parts of the messages of RuntimeErrors that are raised instead of torch.OutOfMemoryError.

They come from cuBLAS, cuDNN (pytorch/pytorch#108645), CUDA itself (page-locked memory) and the CPU allocator.
"""


def available() -> int:
    """Return the bytes that this process can still allocate: the machine's free memory, or that of its container."""
    return min([psutil.virtual_memory().available, *_free_in_containers()])


def require(needed: int, purpose: str, remedy: str) -> None:
    """Raise UserError where a result of needed bytes does not fit into the available memory."""
    if needed > (free := available()):
        raise UserError(
            f"{purpose}: needs {needed / GIB:,.1f} GiB of memory, {free / GIB:,.1f} GiB are available; {remedy}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was full: torch.OutOfMemoryError, or the error of a library with its own allocator."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in OTHER_ALLOCATORS)


def _free_in_containers() -> list[int]:
    limits = []
    for folder, limit, used, freeable in CGROUPS:
        if not (folder / limit).is_file():
            continue
        text = (folder / limit).read_text(encoding="ascii").strip()
        if text.isdecimal():
            limits.append(max(0, int(text) - _number(folder / used) + _statistic(folder / "memory.stat", freeable)))
    return limits


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii")) if file.is_file() else 0


def _statistic(file: Path, name: str) -> int:
    """Return a value of memory.stat. Linux frees unused pages of files before it kills a process."""
    lines = file.read_text(encoding="ascii").splitlines() if file.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
