"""The device that Ray reserved for a process. torch may see more, because Ray does not hide unreserved GPUs."""

import os
import socket

import ray
import torch

from gen_ray.errors import UserError, argument


def reserved_device() -> torch.device:
    """Return the GPU that Ray assigned to this process, or the CPU if it assigned none. Raise UserError as usable does.

    A process that reserved a fraction of a GPU is limited to that fraction of its memory. Otherwise the first process
    could take the memory that the last one needs.
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
    """Return Ray's GPU as a torch device. Raise UserError if torch cannot use it, instead of training on the CPU."""
    if not torch.cuda.is_available():
        raise UserError(
            f"{socket.gethostname()}: Ray assigned GPU {gpu}, but torch {torch.__version__} cannot use this GPU; "
            "install a driver and a torch that match, or use no GPU (scaling.use_gpu=false; "
            f"{argument('gpus', 0)} of gen-ray serve)"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # in Ray Train also the other workers' GPUs
    if visible is None and gpu.isdecimal():  # RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES: torch sees all of them
        return torch.device("cuda", int(gpu))
    names = [name.strip() for name in (visible or "").split(",")]
    if gpu not in names:
        raise UserError(
            f"{socket.gethostname()}: Ray assigned GPU {gpu}, which is not one of CUDA_VISIBLE_DEVICES={visible}; "
            "start Ray with the same CUDA_VISIBLE_DEVICES as its workers"
        )
    return torch.device("cuda", names.index(gpu))
