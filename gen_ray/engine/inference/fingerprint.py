"""The fingerprint of a model's samples: the same weights on the same build give the same bytes."""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.precision import autocast, precision_on
from gen_ray.engine.inference.sampler_choice import SamplerChoice

SAMPLES, SEED = 4, 0


def fingerprint(model: Model, choice: SamplerChoice, device: torch.device) -> str:
    """Return the SHA-256 of samples 0 … 3 of seed 0 in stored form, computed in forwards of four rows on one thread."""
    chain = model.family.chain(choice.sampler, choice.steps)
    with one_thread(), autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, SAMPLES, seed=SEED, device=device, batch_size=SAMPLES)
    return hashlib.sha256(samples.contiguous().numpy().tobytes()).hexdigest()


def build(model: Model, device: torch.device) -> str:
    """Return a description of the build. Fingerprints depend on it, so they may differ between two builds."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    precision = precision_on(model.experiment.training.precision, device)
    return f"torch {torch.__version__}, numpy {np.__version__}, {device.type} {where}, {precision}"


def _processor() -> str:
    """Return the CPU's model and the instruction set that torch uses."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model} {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block, because the division of work among threads changes the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
