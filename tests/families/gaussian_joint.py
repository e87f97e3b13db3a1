"""The perfect denoiser of tests.tabular_joint: the posterior of every feature given the observed noisy features."""

import torch
from torch import Tensor, nn

from gen_ray.families.ddpm import Ddpm
from gen_ray.families.score_sde import ScoreSde
from gen_ray.maths.row_features import RowFeatures
from tests.tabular_joint import ROWS, P


class PerfectDenoiser(nn.Module):
    """net(x_t and two masks (B, 3·F), t (B,)): the log-odds that the other features give, half of them for bits.

    Features are independent given the row, so the posterior of the row is a product of the features' likelihoods.
    """

    def __init__(self, family: Ddpm | ScoreSde, *, flow: bool) -> None:
        super().__init__()
        self.family, self.flow = family, flow
        self.features: RowFeatures = family.features
        rows = self.features.read(ROWS)
        self.x, self.u = rows.x.double(), rows.u  # (24, F)
        self.spread = torch.full(self.x.shape[1:], self.features.bit_spread)
        self.spread[self.features.listed] = self.features.posterior.spread
        self.eval()

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (B, 1, 1) at times t (B,)."""
        if self.flow:
            u = self.family.sde.u(t.double())
            alpha, sigma = torch.sigmoid(-2 * u).sqrt(), torch.sigmoid(2 * u).sqrt()
        else:
            k = (t * self.family.schedule.T).round().long()
            alpha, sigma = self.family.schedule.alpha[k], self.family.schedule.sigma[k]
        return alpha.view(-1, 1, 1), sigma.view(-1, 1, 1)

    def log_likelihoods(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return ln p(x_t,f | row), (B, 24, F)."""
        variance = (alpha * self.spread) ** 2 + sigma**2
        return -((x_t[:, None] - alpha * self.x) ** 2) / (2 * variance) - variance.log() / 2

    def forward(self, seen: Tensor, t: Tensor) -> Tensor:
        x_t, noisy, given = (part.double() for part in seen.chunk(3, dim=1))
        log_p = self.log_likelihoods(x_t, *self.marginal(t))
        differs = (x_t[:, None] - self.x).abs() > 1e-3
        log_p = (log_p * noisy[:, None]).masked_fill(differs & (given[:, None] > 0), -1e9)
        log_row = log_p.sum(-1) + P.log()
        others = log_row[..., None] - log_p
        halves = [others.masked_fill(~(self.x * sign > 0), -torch.inf).logsumexp(1) for sign in (1, -1)]
        bits = ((halves[0] - halves[1]) / 2)[:, self.features.unlisted]
        return torch.cat([bits, *self.log_odds(others)], dim=1).float()

    def log_odds(self, others: Tensor) -> list[Tensor]:
        """Return ln p(level | other features) (B, 1) without its frequency, of each level of each listed feature."""
        posterior = self.features.posterior
        return [
            others[:, self.u[:, f] == level, f].logsumexp(1, keepdim=True) - posterior.log_frequencies[i, level]
            for i, f in enumerate(self.features.listed.tolist())
            for level in range(int(self.features.levels[f]))
        ]
