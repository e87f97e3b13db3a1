"""Walk a chain for a fixed batch: gather a row of the table, one network evaluation, one update, repeat."""

import torch
from torch import Tensor, nn

from gen_ray.family import Chain, Held
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
    held: Held | None = None,
) -> Tensor:
    """Return samples first … first+n−1 of a seed, integers (n, *shape) on the CPU; held (n, …) is what they must keep.

    Sample i depends on (seed, i), its part of held and the net alone; the batch changes float rounding only.
    """
    parts = []
    for start in range(first, first + n, batch_size):
        size = min(batch_size, first + n - start)
        part = held and held.part(start - first, size)
        parts.append(_walk(net, chain, RowNoise.of(seed, size, first=start), device, part))
    return torch.cat(parts)


@torch.inference_mode()  # which spares every operation autograd's bookkeeping; cat gives back an ordinary tensor
def _walk(net: nn.Module, chain: Chain, noise: RowNoise, device: torch.device, held: Held | None) -> Tensor:
    state = chain.kernel.start(noise.at(0), device, held)
    for tick, rows in enumerate(chain.table[:, None].expand(-1, noise.batch, -1), start=1):
        state = chain.kernel.tick(net, state, rows, noise.at(tick))
    return chain.kernel.finish(state).cpu()
