"""A joint distribution small enough for enumeration, and its perfect nets."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen_ray.maths.categorical import Corruption
from gen_ray.maths.noise import RowNoise


@dataclass(frozen=True, eq=False)
class Joint:
    """p (K^D,) over all sequences of D symbols; the last symbol varies fastest."""

    K: int
    D: int
    p: Tensor

    @classmethod
    def random(cls, K: int, D: int, seed: int = 0) -> "Joint":
        logits = torch.randn(K**D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return cls(K, D, (1.2 * logits).softmax(0))

    @property
    def sequences(self) -> Tensor:
        """Return all sequences (K^D, D)."""
        return torch.tensor(list(itertools.product(range(self.K), repeat=self.D)))

    @property
    def entropy(self) -> float:
        return float(-torch.xlogy(self.p, self.p).sum())

    def index(self, x: Tensor) -> Tensor:
        """Return the index in p of sequences x (B, D)."""
        return (x.long() * self.K ** torch.arange(self.D - 1, -1, -1)).sum(1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        at = torch.multinomial(self.p, n, replacement=True, generator=torch.Generator().manual_seed(seed))
        return self.sequences[at]

    def noised(self, alpha_bar: float) -> "Joint":
        """Return the distribution of x_t under the uniform limit."""
        each = Corruption.uniform(self.K).cumulative(
            torch.eye(self.K, dtype=torch.float64), torch.tensor(alpha_bar, dtype=torch.float64)
        )
        p = self.p.view([self.K] * self.D)
        for _ in range(self.D):
            p = torch.tensordot(p, each, dims=([0], [0]))  # moves the position to the end; D steps restore the order
        return Joint(self.K, self.D, p.flatten())

    def given(self, known: dict[int, int]) -> "Joint":
        """Return the distribution given known positions."""
        fits = torch.stack([self.sequences[:, i] == v for i, v in known.items()]).all(0)
        p = self.p * fits
        return Joint(self.K, self.D, p / p.sum())


class MaskOracle(nn.Module):
    """The perfect net ln p(x_i | unmasked symbols elsewhere), which ignores the time."""

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint

    def likelihood(self, x: Tensor, t: Tensor) -> Tensor:
        """Return q(x_t,i | x_0,i) at each position i for all sequences x_0: (B, K^D, D)."""
        clean = self.joint.sequences
        return ((x[:, None] == clean) | (x[:, None] == self.joint.K)).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, D, K)."""
        states, back = torch.cat([x.double(), t.double()[:, None]], 1).unique(dim=0, return_inverse=True)
        return self.answers(states[:, :-1].long(), states[:, -1])[back]

    def answers(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the logits (B, D, K) of distinct states."""
        q, out = self.likelihood(x, t), []
        for i in range(self.joint.D):
            others = [j for j in range(self.joint.D) if j != i]
            weights = self.joint.p * q[..., others].prod(-1)
            table = torch.stack([weights[:, self.joint.sequences[:, i] == v].sum(1) for v in range(self.joint.K)], 1)
            out.append(table.log() - table.sum(1, keepdim=True).log())
        return torch.stack(out, 1)


class UniformOracle(MaskOracle):
    """The perfect net ln p(x_0,i | x_t elsewhere) under the uniform limit; t = k/T."""

    def __init__(self, joint: Joint, alpha_bar: Tensor) -> None:
        super().__init__(joint)
        self.alpha_bar = alpha_bar

    def likelihood(self, x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = self.alpha_bar[(t.double() * (len(self.alpha_bar) - 1)).round().long()][:, None, None]
        return alpha_bar * (x[:, None] == self.joint.sequences) + (1 - alpha_bar) / self.joint.K


class CausalOracle(MaskOracle):
    """The perfect causal net ln p(x_i | x_<i), which ignores later symbols."""

    def answers(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = torch.full_like(x, self.joint.K)
        steps = [
            super(CausalOracle, self).answers(torch.cat([x[:, :i], hidden[:, i:]], 1), t) for i in range(x.shape[1])
        ]
        return torch.stack([step[:, i] for i, step in enumerate(steps)], 1)


class Lookup(nn.Module):
    """The mask oracle with precomputed logits of all (K+1)^D states, which is fast on many rows."""

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.states = Joint(joint.K + 1, joint.D, joint.p)
        self.table = MaskOracle(joint).answers(self.states.sequences, torch.zeros(len(self.states.sequences)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, D, K)."""
        return self.table[self.states.index(x)]


class Uniforms(RowNoise):
    """Noise whose uniforms are source(shape (B, …)): chosen values, or values drawn for all rows at once."""

    def __init__(self, n: int, source: Callable[[tuple[int, ...]], Tensor]) -> None:
        super().__init__([0] * n, range(n), [0] * n)
        object.__setattr__(self, "source", source)

    def uniform(self, shape: tuple[int, ...], **_: object) -> Tensor:
        return self.source((self.batch, *shape))


def seeded(seed: int) -> Callable[[tuple[int, ...]], Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return lambda shape: torch.rand(shape, generator=rng, dtype=torch.float64)


def two_sample_surprise(joint: Joint, x: Tensor, y: Tensor) -> float:
    """Return the excess in standard deviations of the two-sample chi-square of x and y (N, D)."""
    a, b = (torch.bincount(joint.index(z), minlength=len(joint.p)).double() for z in (x, y))
    assert len(x) == len(y) and (a + b > 10).all()
    freedom = len(a) - 1
    return float((((a - b) ** 2 / (a + b)).sum() - freedom) / math.sqrt(2 * freedom))


def surprise(joint: Joint, x: Tensor) -> float:
    """Return the excess in standard deviations of the chi-square of samples x (N, D) over its expectation."""
    counts, expected_counts = torch.bincount(joint.index(x), minlength=len(joint.p)).double(), joint.p * len(x)
    possible = joint.p > 0
    assert not counts[~possible].any()
    rare = possible & (expected_counts < 5)
    cells = [
        (counts[possible & ~rare], expected_counts[possible & ~rare]),
        (counts[rare].sum()[None], expected_counts[rare].sum()[None]),
    ]
    observed, expected = (torch.cat([cell[i] for cell in cells if cell[1].sum() > 0]) for i in range(2))
    freedom = len(expected) - 1
    return float((((observed - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def total_variation(joint: Joint, x: Tensor) -> float:
    counts = torch.bincount(joint.index(x), minlength=len(joint.p)).double() / len(x)
    return float((counts - joint.p).abs().sum() / 2)
