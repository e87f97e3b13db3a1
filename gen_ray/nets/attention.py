"""Self-attention over a sequence."""

import math
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.nets.embeddings import zero_module


class AttentionConfig(Protocol):
    """Settings of a net with attention."""

    width: int
    heads: int


AnyHeaded = TypeVar("AnyHeaded", bound=AttentionConfig)


def heads_divide_width(config: AnyHeaded) -> AnyHeaded:
    """Return config unchanged, as validators do. Raise ValueError unless width is a multiple of heads."""
    if config.width % config.heads:
        raise ValueError(f"width {config.width} must be a multiple of heads {config.heads}")
    return config


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Return softmax(q·kᵀ/√D)·v, all (B, heads, N, D).

    If causal, a position attends only to itself and the positions before it. On CPU in bfloat16 the backward pass of
    torch's fused kernel is 3-5 times slower than the two matrix products used here.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        products = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if causal:
            later = torch.ones(products.shape[-2:], dtype=torch.bool).triu(1)
            products = products.masked_fill(later, -math.inf)
        return products.softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) without positions; its output is 0 when new."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zero_module(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention output (B, N, width) for x (B, N, width)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, causal=self.causal).transpose(1, 2).flatten(2))
