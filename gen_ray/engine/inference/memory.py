"""The memory that a result needs, compared with the available memory before the work starts; errors of full memory."""

from pathlib import Path

import psutil
import torch

from gen_ray.errors import UserError

GIB = 2**30
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""By version of Linux's control groups: folder, files of the limit and of the use, and the freeable part of the use."""
OTHER_ALLOCATORS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
)
"""Parts of the messages of RuntimeErrors in place of torch.OutOfMemoryError.

They come from cuBLAS, from cuDNN (pytorch/pytorch#108645), from CUDA itself (page-locked memory) and from a CPU.
"""


def available() -> int:
    """Return the bytes that this process can still take: the machine's free memory, or that of a container."""
    return min([psutil.virtual_memory().available, *_free_in_containers()])


def require(needed: int, what: str, remedy: str) -> None:
    """Raise UserError where a result of needed bytes does not fit into the memory that is available."""
    if needed > (free := available()):
        raise UserError(
            f"{what}: needs {needed / GIB:,.1f} GiB of memory, {free / GIB:,.1f} GiB are available; {remedy}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was full: torch's error of that name, or one of a library that allocates by itself."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in OTHER_ALLOCATORS)


def _free_in_containers() -> list[int]:
    found = []
    for folder, limit, used, freeable in CGROUPS:
        if not (folder / limit).is_file():
            continue
        text = (folder / limit).read_text(encoding="ascii").strip()
        if text.isdecimal():
            found.append(max(0, int(text) - _number(folder / used) + _statistic(folder / "memory.stat", freeable)))
    return found


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii")) if file.is_file() else 0


def _statistic(file: Path, name: str) -> int:
    """Return a value of memory.stat: Linux frees the pages of files that are not in use before a process is killed."""
    lines = file.read_text(encoding="ascii").splitlines() if file.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
