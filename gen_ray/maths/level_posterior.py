"""Bayes' rule over the levels of ordered features: the distribution of a feature's level given its noisy value.

A table often has a value that most rows share: 0 is 92 % of the values of Adult's capital-gain. At low noise a net that
predicts a number would have to be exact to a small part of a level. Here a net predicts log-odds of the levels, and the
noisy value itself selects among them. A net whose output is 0 gives the exact posterior of independent columns.

Shapes: B batch, L features, K largest number of levels, N sum of the numbers of levels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gen_ray.maths.gaussian import Scalar
from gen_ray.maths.levels import scaled


class LevelPosterior:
    """p(level|x_t) ∝ frequency·exp(output)·N(x_t; alpha·level, (alpha·spread)² + sigma²) for each of L features.

    levels (L,) are the numbers of levels, frequencies (L, K) their relative frequencies, 0 where a feature has fewer
    than K levels. spread (L,) are the standard deviations of the points that stand for a level; 0 for the level itself.
    """

    def __init__(self, levels: Tensor, frequencies: Tensor, spread: Tensor) -> None:
        """Divide the outputs among the features."""
        code = torch.arange(frequencies.shape[1])
        valid = code < levels[:, None]
        self.outputs = int(valid.sum())
        self.values, self.log_frequencies = scaled(code, levels[:, None]), frequencies.log().float()  # (L, K)
        self.spread, self.half_width = spread.float(), 1 / (levels - 1).float()
        # (L, K): the place of each level's output; N, which is padded with 0, where a feature has fewer levels
        self.places = torch.full(valid.shape, self.outputs).masked_scatter(valid, torch.arange(self.outputs))

    def log_p(self, output: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        """Return ln p(level|x_t) (B, L, K) for a net's output (B, N), x_t (B, L), and alpha and sigma () or (B, 1)."""
        device = x_t.device
        logits = F.pad(output, (0, 1)).index_select(1, self.places.flatten().to(device)).unflatten(1, self.places.shape)
        alpha, sigma = (torch.as_tensor(scale, device=device).unsqueeze(-1) for scale in (alpha, sigma))
        variance = (alpha * self.spread.to(device)[:, None]).square() + sigma.square()
        error = x_t.unsqueeze(-1) - alpha * self.values.to(device)
        return (logits + self.log_frequencies.to(device) - error.square() / (2 * variance)).log_softmax(-1)

    def mean(self, log_p: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
        """Return E[x_0|x_t] (B, L) for the result of ``log_p``: the mean level if spread is 0."""
        inside = (alpha * self.spread.to(x_t.device)) ** 2
        level = (log_p.exp() * self.values.to(x_t.device)).sum(-1)
        return (sigma * sigma * level + inside / alpha * x_t) / (inside + sigma * sigma)

    def nats(self, log_p: Tensor, u: Tensor) -> Tensor:
        """Return −ln p(u|x_t) (B, L) of levels u (B, L)."""
        return -log_p.gather(-1, u.long().unsqueeze(-1)).squeeze(-1)

    def points(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Return points of the cells, relative to their levels, and −ln of their density, each (B, L).

        They are spread·z for standard normals z (B, L), folded at the ends of the cell.
        """
        spread = self.spread.to(normal.device)
        h = self.half_width.to(normal.device) / spread
        y = normal.abs() % (4 * h)
        y = torch.minimum(y, 4 * h - y)
        y = torch.where(y > h, 2 * h - y, y).abs()
        # The density is that of y and of its mirror images 2h − y and 2h + y; further ones are too far away
        images = torch.exp(2 * h * (y - h)) + torch.exp(-2 * h * (y + h))
        entropy = y.square() / 2 + (spread * math.sqrt(2 * math.pi)).log() - images.log1p()
        return spread * torch.copysign(y, normal), entropy
