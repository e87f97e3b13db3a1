"""The memory that a result needs, compared with the available memory before the work starts."""

from pathlib import Path

import psutil

from gen_ray.errors import UserError

GIB = 2**30
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux states the limit of a container, by version of its control groups."""


def available() -> int:
    """Return the bytes that this process can still take: the machine's free memory, or a container's lower limit."""
    return min([psutil.virtual_memory().available, *_container_limits()])


def require(needed: int, what: str, remedy: str) -> None:
    """Raise UserError where a result of needed bytes does not fit into the memory that is available."""
    if needed > (free := available()):
        raise UserError(
            f"{what}: needs {needed / GIB:,.1f} GiB of memory, {free / GIB:,.1f} GiB are available; {remedy}"
        )


def _container_limits() -> list[int]:
    texts = [file.read_text(encoding="ascii").strip() for file in CGROUP_LIMITS if file.is_file()]
    return [int(text) for text in texts if text.isdecimal()]
