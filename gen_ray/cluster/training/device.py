"""The device that Ray booked for a process, which is not all that torch sees: Ray hides no GPU from who booked none."""

import os
import socket

import ray
import torch

from gen_ray.errors import UserError


def reserved_device() -> torch.device:
    """Return the GPU that Ray gave this process, or the CPU where it gave none. Raise UserError as usable does.

    A process that reserved a part of a GPU may use that part of its memory: otherwise the first one could take what the
    last one needs.
    """
    context = ray.get_runtime_context()
    booked = context.get_accelerator_ids().get("GPU", [])
    if not booked:
        return torch.device("cpu")
    device = usable(booked[0])
    if device.type == "cuda":
        torch.cuda.set_device(device)
        part = min(1.0, context.get_assigned_resources().get("GPU", 1.0))
        torch.cuda.set_per_process_memory_fraction(part, device)
    return device


def usable(gpu: str) -> torch.device:
    """Return the GPU of Ray's number. Raise UserError where torch has none: nobody should train for days on a CPU."""
    if not torch.cuda.is_available():
        raise UserError(
            f"{socket.gethostname()}: Ray gave GPU {gpu}, but torch {torch.__version__} can use none there; install a "
            "driver and a torch that go together, or do without (scaling.use_gpu=false; gen-ray serve --gpus 0)"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # in Ray Train those of the neighbours too
    if visible is None and gpu.isdecimal():  # RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES: torch sees all of them
        return torch.device("cuda", int(gpu))
    names = [name.strip() for name in (visible or "").split(",")]
    if gpu not in names:
        raise UserError(
            f"{socket.gethostname()}: Ray gave GPU {gpu}, which is not one of CUDA_VISIBLE_DEVICES={visible}; start "
            "Ray with the same CUDA_VISIBLE_DEVICES as its workers"
        )
    return torch.device("cuda", names.index(gpu))
