"""The perfect denoiser of tests.tabular_joint: the posterior of every feature given the observed noisy features."""

import torch
from torch import Tensor, nn

from gen_ray.families.ddpm import Ddpm
from gen_ray.families.score_sde import ScoreSde
from gen_ray.maths.row_features import RowFeatures
from tests.tabular_joint import ROWS, P


class PerfectDenoiser(nn.Module):
    """net(x_t and two masks (B, 3·F), t (B,)): x_0 or eps of the ordered feature, half of the log-odds of the bits.

    Features are independent given the row, so the posterior of the row is a product of the features' likelihoods.
    """

    def __init__(self, family: Ddpm | ScoreSde, *, flow: bool) -> None:
        super().__init__()
        self.family, self.flow = family, flow
        self.features: RowFeatures = family.features
        self.x = self.features.read(ROWS).x.double()  # (24, F)
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

    def log_likelihoods(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln p(x_t,f | row) and E[x_0,f | x_t,f, row], each (B, 24, F)."""
        x_t, row = x_t[:, None], self.x.expand(len(x_t), -1, -1)
        spread = self.features.bit_spread if self.flow else 0.0
        variance = (alpha * spread) ** 2 + sigma**2
        point = -((x_t - alpha * row) ** 2) / (2 * variance) - variance.log() / 2
        mean = row + alpha * spread**2 / variance * (x_t - alpha * row)
        if not self.flow:
            return point, mean
        # Ordered features are uniform in their bins: a normal of x_t/alpha with deviation sigma/alpha, truncated
        half, s = 1 / (self.features.levels - 1).double(), sigma / alpha
        low, high = ((row + sign * half - x_t / alpha) / s for sign in (-1, 1))
        flip = torch.where(low > 0, -1.0, 1.0)  # the mirror image, in which the mass is not in the upper tail
        low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
        upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        log_mass = upper + torch.log1p(-(lower - upper).exp())
        density = torch.distributions.Normal(0.0, 1.0).log_prob
        shift = ((density(low) - log_mass).exp() - (density(high) - log_mass).exp()) * flip
        is_bit = self.features.is_bit
        inside = torch.minimum(torch.maximum(x_t / alpha + s * shift, row - half), row + half)
        return torch.where(is_bit, point, log_mass - (2 * half).log()), torch.where(is_bit, mean, inside)

    def forward(self, seen: Tensor, t: Tensor) -> Tensor:
        x_t, noisy, given = (part.double() for part in seen.chunk(3, dim=1))
        alpha, sigma = self.marginal(t)
        log_p, mean = self.log_likelihoods(x_t, alpha, sigma)
        differs = (x_t[:, None] - self.x).abs() > 1e-3
        log_p = (log_p * noisy[:, None]).masked_fill(differs & (given[:, None] > 0), -1e9)
        log_row = log_p.sum(-1) + P.log()
        x_0 = (log_row.softmax(1)[..., None] * mean).sum(1)
        others = log_row[..., None] - log_p
        halves = [others.masked_fill(~(self.x * sign > 0), -torch.inf).logsumexp(1) for sign in (1, -1)]
        ordered = (x_t - alpha[:, 0] * x_0) / sigma[:, 0] if self.flow else x_0
        return torch.where(self.features.is_bit, (halves[0] - halves[1]) / 2, ordered).float()
