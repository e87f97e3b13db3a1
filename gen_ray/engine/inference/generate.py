"""Draws samples of a fixed batch: for each table row one network evaluation and one update."""

import torch
from torch import Tensor, nn

from gen_ray.engine.inference import memory
from gen_ray.maths.chain import Chain, Known
from gen_ray.maths.noise import RowNoise


def generate(
    net: nn.Module,
    chain: Chain,
    n: int,
    *,
    seed: int,
    device: torch.device,
    batch_size: int = 64,
    first: int = 0,
    known: Known | None = None,
) -> Tensor:
    """Return samples first … first+n−1 of a seed, integers (n, *shape) on the CPU.

    known (n, …) are values that the samples keep. Sample i depends only on (seed, i), its part of known and the
    net; the batch size changes only float rounding. Raise UserError after the first batch where n samples do not fit
    into memory.
    """
    drawn: Tensor | None = None
    for start in range(0, n, batch_size):
        size = min(batch_size, n - start)
        noise = RowNoise.of(seed, size, first=first + start)
        part = run_chain(net, chain, noise, device, known and known.part(start, size))
        if drawn is None:  # the first batch shows how much memory a sample takes
            memory.require(part[0].nbytes * n, f"{n:,} samples", "ask for fewer")
            drawn = part.new_empty((n, *part.shape[1:]))
        drawn[start : start + size] = part
    assert drawn is not None, "n is at least 1"
    return drawn


@torch.inference_mode()  # avoids the overhead of autograd; generate copies the result into an ordinary tensor
def run_chain(
    net: nn.Module, chain: Chain, noise: RowNoise, device: torch.device, known: Known | None = None
) -> Tensor:
    """Return one batch of samples (B, *shape), integers on the CPU; known (B, …) are values that they keep."""
    state = chain.stepper.start(noise.at(0), device, known)
    for tick, rows in enumerate(chain.table[:, None].expand(-1, noise.batch, -1), start=1):
        state = chain.stepper.tick(net, state, rows, noise.at(tick))
    return chain.stepper.finish(state).cpu()
