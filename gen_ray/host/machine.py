"""The hardware and software of this machine and its limits, read without starting any process."""

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("gen-ray", "ray", "torch", "torchvision", "pyarrow", "mlflow", "pydantic", "safetensors", "scikit-learn")
GIB = 2**30
FEW_FILES, LITTLE_SHM_GIB, LITTLE_DISK_GIB = 4096, 1.0, 5.0


@dataclass(frozen=True)
class Machine:
    """The description of a machine by a process that runs on it."""

    versions: dict[str, str]
    """Versions of Python and of the installed ones of PACKAGES."""
    cores: int
    memory_gib: float
    gpus: tuple[str, ...]
    """Names and memory of the GPUs that torch can use."""
    bfloat16: bool
    """Whether the device for training, GPU or CPU, multiplies in bfloat16."""
    cuda: str
    """CUDA version of torch's build, "none" for a build for CPUs only."""
    shm_gib: float | None
    """Free shared memory in GiB, where Ray keeps its objects; None if the folder does not exist."""
    open_files: int
    disk_gib: float
    """Free space in GiB on the disk of the storage, or of Ray's logs if the storage is an object store."""

    def __str__(self) -> str:
        """Return the description as one line."""
        gpus = ", ".join(self.gpus) or "no GPU"
        hardware = "in hardware" if self.bfloat16 else "not in hardware"
        return f"{self.cores} cores, {self.memory_gib:.0f} GiB, {gpus} (CUDA {self.cuda}), bfloat16 {hardware}"

    def warnings(self) -> Iterator[str]:
        """Yield warnings about limits that may be reached later, with their remedies."""
        if self.open_files < FEW_FILES:
            yield f"{self.open_files} open files a process: a cluster's head needs many (ulimit -n 65536)"
        if self.shm_gib is not None and self.shm_gib < LITTLE_SHM_GIB:
            yield f"{self.shm_gib:.2f} GiB free in /dev/shm: Ray's objects go to disk (docker run --shm-size=4g)"
        if self.disk_gib < LITTLE_DISK_GIB:
            yield f"{self.disk_gib:.1f} GiB free on the disk of the storage: a checkpoint may not fit"


def inspect_machine(storage: Path) -> Machine:
    """Return the description of this machine. storage: a folder, which may be missing, whose disk is measured."""
    import torch

    # The driver may list GPUs that torch cannot use, for instance because it is older than torch's CUDA.
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(i) for i in range(usable)]
    shm, existing = Path("/dev/shm"), storage.absolute()  # noqa: S108 - not written to
    while not existing.exists():
        existing = existing.parent
    return Machine(
        versions=versions(*PACKAGES),
        cores=os.cpu_count() or 1,
        memory_gib=psutil.virtual_memory().total / GIB,
        gpus=tuple(f"{gpu.name} {gpu.total_memory / GIB:.0f} GiB" for gpu in found),
        bfloat16=has_bfloat16(cuda=bool(found)),
        cuda=torch.version.cuda or "none",
        shm_gib=shutil.disk_usage(shm).free / GIB if shm.is_dir() else None,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        disk_gib=shutil.disk_usage(existing).free / GIB,
    )


def has_bfloat16(*, cuda: bool) -> bool:
    """Return whether this machine's GPU, or else its CPU, multiplies in bfloat16.

    Emulation does not count: it is slow, and GPUs before compute capability 8.0 lack convolutions in bfloat16.
    """
    import torch

    if cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of the installed packages among those named."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
