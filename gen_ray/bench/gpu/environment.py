"""Description of the environment of a benchmark run."""

import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

import torch

from gen_ray.engine.inference.artifact import git_commit

MIB = 2**20


def describe(device: torch.device) -> dict[str, Any]:
    """Return device, software versions, numerical settings, commit and date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
        "host_cores": torch.get_num_threads(),
        **(_gpu(device) if device.type == "cuda" else {"card": platform.processor() or platform.machine()}),
        "settings": {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "tf32_in_convolutions": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    card = torch.cuda.get_device_properties(device)
    return {
        "card": card.name,
        "capability": f"{card.major}.{card.minor}",
        "memory_mib": card.total_memory // MIB,
        "multiprocessors": card.multi_processor_count,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str:
    """Return the driver's version from nvidia-smi, or "unknown"."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return "unknown" if done.returncode or not done.stdout else done.stdout.splitlines()[0]
