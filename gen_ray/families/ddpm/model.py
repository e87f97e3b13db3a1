"""The DDPM family: losses and likelihoods by the forward process, samplers as tables of the denoiser x̂_0."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.families.ddpm.config import DdpmConfig
from gen_ray.families.ddpm.fixed_forward import FixedForward
from gen_ray.families.ddpm.forward import Forward
from gen_ray.families.ddpm.learned_forward import LearnedForward
from gen_ray.families.ddpm.parametrization import Parametrization
from gen_ray.family import Family, LossTerms, Nll
from gen_ray.maths import gaussian, tables
from gen_ray.maths.bounds import summed
from gen_ray.maths.features import FeatureBatch
from gen_ray.maths.gaussian_samplers import GAUSSIAN_SAMPLERS, REPAINT
from gen_ray.maths.gaussian_steppers import GaussianStepper
from gen_ray.maths.likelihoods import sum_dims
from gen_ray.maths.paths import end_fault
from gen_ray.maths.row_features import RowFeatures, features_of
from gen_ray.maths.sampler import Sampler, TableSampler
from gen_ray.maths.schedules import DiscreteSchedule, Learned
from gen_ray.nets import DENOISERS

VARIANCES = {"small": tables.Variance.SMALL, "large": tables.Variance.LARGE, "learned": tables.Variance.LEARNED}
DEFAULT_STEPS = {"heun": 10}
"""Default steps that differ from those of the SDEs."""
FEWEST = {"repaint_low_noise": 11, "repaint": 12}
"""The least steps of an imputer; with fewer it is unstable. On Gaussian data (standard deviations 0.05 to 1) with the
exact net and linear, cosine, sigmoid and learned schedules, errors are then up to 18 standard deviations, more than the
error of a constant."""


class Ddpm(Family):
    """Denoising diffusion: T steps of Gaussian noise, reversed by a network that predicts eps, x_0 or v."""

    Config = DdpmConfig
    config: DdpmConfig

    def __init__(self, config: DdpmConfig, spec: DataSpec) -> None:
        """Set up the forward process. Raise UserError for data that are neither images nor tables."""
        super().__init__(config, spec)
        self.require_net(config.net, DENOISERS)
        self.features = features_of(spec)
        prediction, variance = gaussian.PREDICTIONS[config.predict], VARIANCES[config.variance]
        self.parametrization = Parametrization(
            prediction=prediction, variance=variance, clip=config.clip, features=self.features
        )
        self.forward = self._forward(DiscreteSchedule.of(config.schedule, config.steps))

    def _forward(self, schedule: DiscreteSchedule) -> Forward:
        """Return the forward process. Raise UserError if the chain does not end in noise and its end is not learned."""
        fault = end_fault(float(schedule.alpha[-1]), float(schedule.sigma[-1]))
        if fault and not (isinstance(self.config.schedule, Learned) and self.config.schedule.learn_ends):
            raise UserError(f"schedule: {fault}")
        if isinstance(self.config.schedule, Learned):
            return LearnedForward(self.config.schedule, schedule, self.parametrization)
        return FixedForward(self.config, schedule, self.parametrization)

    @property
    def schedule(self) -> DiscreteSchedule:
        """Return the chain's schedule on its T steps."""
        return self.forward.schedule

    def build_net(self) -> nn.Module:
        """Return net(x (B,C,H,W), t (B,)) -> (B, C, H, W), or (B, 2·C, H, W) if the variance is learned.

        For tables net(x and two masks (B,3·F), t (B,)) -> the features' output channels, and F more for a variance.
        """
        channels = self.features.output_channels + self.features.shape[0] * self.parametrization.learns_variance
        return self.forward.wrapped(self.config.net.build(self.features.input_shape, channels))

    def fitted(self, net: nn.Module) -> "Ddpm":
        """Return this family with the forward process that net has learned."""
        other = copy.copy(self)
        other.forward = self.forward.fitted(net)
        return other

    # ---- training and likelihood ----------------------------------------------------------------------------------

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return L_simple = ‖target − prediction‖² (Ho et al. eq. 14), the bound in nats, or their hybrid, (B,)."""
        return self.forward.loss(net, self.features.read_for_loss(x, net, rng), rng)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return the variational bound L_T + Σ_k L_{k−1} + L_0 (B,) nats (Ho et al. eq. 5) by at most T evaluations.

        L_0 is always evaluated; the remaining effort, at least one evaluation, goes to the steps 2 … T (bounds.summed).
        """
        batch = self.features.read(x)
        return self._bound(net, batch, rng, effort, f"vlb{batch.suffix}")

    def masked_nll(self, net: nn.Module, x: Tensor, mask: Tensor, rng: torch.Generator, *, effort: int) -> Nll | None:
        """Return the bound (B,) on the missing values of rows given the known ones; None for images.

        The net of a table reads known values without noise, so it has a chain for only the others.
        """
        if not isinstance(self.features, RowFeatures):
            return None
        batch = self.features.conditioned(self.features.read(x), mask)
        return self._bound(net, batch, rng, effort, "vlb-masked")

    def _bound(self, net: nn.Module, batch: FeatureBatch, rng: torch.Generator, effort: int, kind: str) -> Nll:
        process, T = self.forward, self.config.steps
        draws = max(1, min(effort - process.decoder_nfe, T - 1))
        first = process.decoder_nats(net, batch, rng)
        between = summed(partial(process.step_nats, net, batch, rng), T, draws, first, rng)
        terms = {"prior": process.bound.prior_cells(batch.x), "steps": between, "decoder": first}
        parts = {name: sum_dims(term, batch.mask) for name, term in terms.items()}
        cells = sum(terms.values(), torch.zeros_like(first))
        if batch.mask is not None:
            cells = cells.masked_fill(~batch.mask, 0.0)
        return Nll(
            nats=parts["prior"] + parts["steps"] + parts["decoder"],
            kind=kind,
            nfe=draws + process.decoder_nfe,
            parts=parts,
            cells=self.features.cells(cells),
        )

    # ---- sampling and imputation ------------------------------------------------------------------------------------

    @property
    def stepper(self) -> GaussianStepper:
        """Return the stepper of all tables, which are those of Gaussian chains."""
        return GaussianStepper(self.features, self.forward.denoise)

    def sampler_tables(self) -> Mapping[str, TableSampler]:
        """Return the samplers, whose tables use this chain's time grid."""
        fixed: dict[str, dict[str, Any]] = {"ancestral": {"variance": self.parametrization.variance}}
        return {
            name: one.on(self.schedule, self.config.steps, default_steps=DEFAULT_STEPS.get(name), **fixed.get(name, {}))
            for name, one in GAUSSIAN_SAMPLERS.items()
            if not one.continuous_only
        }

    def imputer_tables(self) -> Mapping[str, TableSampler]:
        """Return the imputers: ``repaint_low_noise`` and ``repaint`` resample, ``replacement`` does not.

        ``repaint`` returns at all noise levels, ``repaint_low_noise`` only at low ones.

        For tables the imputers are the samplers, because a net of rows reads known values without noise (Tashiro et al.
        2021, CSDI, arXiv 2107.03502). Replacement is far from exact there, since a category is decided at high noise,
        which hides the known part: with the perfect denoiser of three columns (4, 2 and 3 values), 200 steps, the total
        variation from the conditional is 0.39 for ``replacement``, 0.30 for ``repaint``, 0.23 for
        ``repaint_low_noise``.
        """
        if self.spec.is_table:
            return self.sampler_tables()
        T = self.config.steps
        low_noise = Sampler(
            default_steps=min(25, T),
            least_steps=min(FEWEST["repaint_low_noise"], T),
            nfe_per_step=20,
            nfe_saved=19,
            summary="Lugmayr et al. 2022, alg. 1, resampling only at low noise levels (nfe per step: times)",
            options={"times": (1, 100)},
        )
        repaint = Sampler(
            default_steps=min(50, T),
            least_steps=min(FEWEST["repaint"], T),
            nfe_per_step=10,
            nfe_saved=9,
            summary=REPAINT,
            options={"times": (1, 20), "jump": (1, 100)},
        )
        replacement = Sampler(
            default_steps=min(250, T),
            nfe_per_step=1,
            summary="Ho et al. 2022, section 3.1: replaces the known part at every step; cheap, but visible seams",
        )
        ancestral = partial(tables.ancestral, self.schedule, variance=self.parametrization.variance)
        return {
            "repaint_low_noise": TableSampler(low_noise, self._repaint_low_noise),
            "repaint": TableSampler(repaint, self._repaint),
            "replacement": TableSampler(replacement, ancestral),
        }

    def _repaint_low_noise(self, steps: int, times: float = 20) -> Tensor:
        """Return the table of ``repaint_low_noise``: fewer steps than ``repaint``, all returns at low noise.

        sqrt(500)·KS (below 1.63 at p = 0.01) of 5,000 completions of pairs whose known pixel fits one component of a
        mixture (level 64), the other (150), or neither (110; there also P(other pixel < 0), true value 0.144); T =
        1000, cosine:

            imputer            nfe   64    110           150
            low noise 25 × 20  481   0.38  1.21, 0.198   0.24   the default
            low noise 25 × 40  961   0.30  0.53, 0.163   0.20
            repaint 50 × 10    491   0.46  4.44, 0.334   0.36   jump 5, its default; with jump 1 3.27, 0.283
            repaint 25 × 20    481   0.22  2.66, 0.263   0.36   jump 1
            repaint 100 × 20  1981   0.18  1.78, 0.220   0.12   jump 1
            pc 100 × (1 + 4)   500   0.64  7.13, 0.455   0.34   Langevin (Song et al. 2021), images of 32 pairs

        For two thirds of the schedule's log SNR range, noise hides the known part: returns there have no effect.
        """
        rows = tables.ancestral(self.schedule, steps, tables.Variance.LARGE, spacing="log_snr")
        return tables.repaint_low_noise(rows, times)

    def _repaint(self, steps: int, times: float = 10, jump: float = 5) -> Tensor:
        """Return the table of ``repaint``: ancestral steps, resampled.

        Many returns accumulate the error of a step. Therefore the steps are equal in log SNR, and the variance is beta:
        beta_tilde, exact only for data at a point, gives conditionals that are a third too narrow. Conditional standard
        deviations on a mixture where they are 0.15 | 0.08, T = 1000, 50 steps, 10 times, jump 10: beta_tilde and equal
        steps of k 0.131 | 0.070; this table 0.154 | 0.086, and with jump 5, which mixes as well, 0.151 | 0.083.
        """
        rows = tables.ancestral(self.schedule, steps, tables.Variance.LARGE, spacing="log_snr")
        return tables.resample(rows, times, jump)
