"""Floating-point precision of forward passes: float32 or bfloat16 autocast."""

from contextlib import AbstractContextManager

import torch

from gen_ray.host.machine import has_bfloat16


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the autocast context of a precision on a device; ``auto`` is bfloat16 where the hardware supports it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_on(precision, device) == "bfloat16")


def precision_on(precision: str, device: torch.device) -> str:
    """Return the precision, with ``auto`` resolved to float32 or bfloat16 for the device."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_bfloat16(cuda=device.type == "cuda") else "float32"
