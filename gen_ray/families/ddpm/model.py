"""The family: a network read as x̂_0, its loss and likelihood by way of the forward process, its samplers as tables."""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.families.ddpm.config import DdpmConfig
from gen_ray.families.ddpm.fixed_forward import FixedForward
from gen_ray.families.ddpm.forward import Forward
from gen_ray.families.ddpm.learned_forward import LearnedForward
from gen_ray.families.ddpm.parametrization import Parametrization
from gen_ray.family import Chain, Family, LossTerms, Nll, Sampler, parse_sampler
from gen_ray.maths import gaussian, tables
from gen_ray.maths.bounds import summed
from gen_ray.maths.kernels import GaussianKernel
from gen_ray.maths.levels import scaled
from gen_ray.maths.paths import end_fault
from gen_ray.maths.schedules import Discrete, Learned

VARIANCES = {"small": tables.Variance.SMALL, "large": tables.Variance.LARGE, "learned": tables.Variance.LEARNED}


FEWEST = {"focus": 11, "repaint": 12}
"""Steps below which an imputer is unstable: on all samples of Gaussian data (deviations 0.05 to 1) by the exact net,
linear, cosine, sigmoid and learned schedules, errors are up to 18 deviations, more than the one of a constant."""


class Ddpm(Family):
    """T steps of Gaussian noise, learned backwards from eps, x_0 or v."""

    Config = DdpmConfig
    config: DdpmConfig

    def __init__(self, config: DdpmConfig, spec: DataSpec) -> None:
        """Lay out the schedule. Raise UserError for data that are not images."""
        super().__init__(config, spec)
        self.require_images()
        prediction, variance = gaussian.PREDICTIONS[config.predict], VARIANCES[config.variance]
        self.reading = Parametrization(prediction=prediction, variance=variance, clip=config.clip, levels=spec.levels)
        self.forward = self._forward(Discrete.of(config.schedule, config.steps))

    def _forward(self, schedule: Discrete) -> Forward:
        """Return the forward process. Raise UserError if the chain ends in no noise and is not trained to."""
        fault = end_fault(float(schedule.alpha[-1]), float(schedule.sigma[-1]))
        if fault and not (isinstance(self.config.schedule, Learned) and self.config.schedule.learn_ends):
            raise UserError(f"schedule: {fault}")
        if isinstance(self.config.schedule, Learned):
            return LearnedForward(self.config.schedule, schedule, self.reading)
        return FixedForward(self.config, schedule, self.reading)

    @property
    def schedule(self) -> Discrete:
        """Return the chain's alpha_bar and what follows from it."""
        return self.forward.schedule

    def build_net(self) -> nn.Module:
        """Return net(x (B,C,H,W), t (B,)) -> (B, C, H, W), with C more channels where the variance is learned."""
        channels = self.spec.shape[0] * (2 if self.reading.learns_variance else 1)
        return self.forward.wrapped(self.config.net.build(self.spec.shape, channels))

    def fitted(self, net: nn.Module) -> "Ddpm":
        """Return this family on the forward process that net has learned."""
        other = copy.copy(self)
        other.forward = self.forward.fitted(net)
        return other

    # ---- training and likelihood ----------------------------------------------------------------------------------

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return L_simple = ‖target − prediction‖² (Ho et al. eq. 14), the bound in nats, or their hybrid (B,)."""
        return self.forward.loss(net, x, scaled(x, self.spec.levels), rng)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return the variational bound L_T + Σ_k L_{k−1} + L_0 (Ho et al. eq. 5) by at most T evaluations.

        L_0 is always evaluated, and of the steps 2 … T as many as are left of effort, at least one (bounds.summed).
        """
        x_0, process, T = scaled(x, self.spec.levels), self.forward, self.config.steps
        draws = max(1, min(effort - process.decoder_nfe, T - 1))
        first = process.decoder_nats(net, x, x_0, rng)
        between = summed(partial(process.step_nats, net, x, x_0, rng), T, draws, first, rng)
        parts = {"prior": process.bound.prior_nats(x_0), "steps": between, "decoder": first}
        return Nll(nats=parts["prior"] + between + first, kind="vlb", nfe=draws + process.decoder_nfe, parts=parts)

    # ---- sampling and completing ----------------------------------------------------------------------------------

    def samplers(self) -> Mapping[str, Sampler]:
        """Return the samplers that are tables over this chain's time grid."""
        ten, twenty, fifty = (min(n, self.config.steps) for n in (10, 20, 50))
        return {
            "ddim": Sampler(
                default_steps=fifty, nfe_per_step=1, summary="Song et al. 2021, eq. 12", options={"eta": (0.0, 1.0)}
            ),
            "ancestral": Sampler(default_steps=self.config.steps, nfe_per_step=1, summary="Ho et al. 2020, alg. 2"),
            "dpmpp_2m": Sampler(default_steps=twenty, nfe_per_step=1, summary="Lu et al. 2022, alg. 2"),
            "heun": Sampler(default_steps=ten, nfe_per_step=2, nfe_saved=1, summary=tables.HEUN),
        }

    def chain(self, sampler: str, steps: int | None = None) -> Chain:
        """Return the table of a sampler, e.g. ``ddim:eta=0.5``, on steps of the T grid points."""
        known = self.samplers()
        name, options = parse_sampler(sampler, known, steps=steps)
        makers: dict[str, Callable[..., Tensor]] = {
            "ddim": tables.ddim,
            "ancestral": partial(tables.ancestral, variance=self.reading.variance),
            "dpmpp_2m": tables.dpmpp_2m,
            "heun": tables.heun,
        }
        return self._walk(makers[name](self.schedule, known[name].default_steps if steps is None else steps, **options))

    def imputers(self) -> Mapping[str, Sampler]:
        """Return ``focus``, ``repaint``, which returns at every level alike, and ``replacement``, which never does."""
        return {
            "focus": Sampler(
                default_steps=min(25, self.config.steps),
                least_steps=min(FEWEST["focus"], self.config.steps),
                nfe_per_step=20,
                nfe_saved=19,
                summary="Lugmayr et al. 2022, alg. 1, returns only where signal outweighs noise (nfe per step: times)",
                options={"times": (1, 100)},
            ),
            "repaint": Sampler(
                default_steps=min(50, self.config.steps),
                least_steps=min(FEWEST["repaint"], self.config.steps),
                nfe_per_step=10,
                nfe_saved=9,
                summary="Lugmayr et al. 2022, alg. 1: every jump of steps walked so many times (nfe per step: times)",
                options={"times": (1, 20), "jump": (1, 100)},
            ),
            "replacement": Sampler(
                default_steps=min(250, self.config.steps),
                nfe_per_step=1,
                summary="Ho et al. 2022, section 3.1: the known part replaced at every step: seams, but cheap",
            ),
        }

    def impute(self, imputer: str, steps: int | None = None) -> Chain:
        """Return the table of an imputer, e.g. ``focus:times=40``, on steps of the T grid points."""
        known = self.imputers()
        name, options = parse_sampler(imputer, known, "imputer", steps=steps)
        makers: dict[str, Callable[..., Tensor]] = {
            "focus": self._repaint_low_noise,
            "repaint": self._repaint,
            "replacement": partial(tables.ancestral, variance=self.reading.variance),
        }
        return self._walk(makers[name](self.schedule, known[name].default_steps if steps is None else steps, **options))

    def _repaint_low_noise(self, schedule: Discrete, steps: int, times: float = 20) -> Tensor:
        """Return ancestral steps as in ``_repaint``, but few, which share its returns where the known part tells.

        sqrt(500)·KS (below 1.63 at p = 0.01) of 5,000 completions of pairs whose known pixel fits the one component of
        a mixture (level 64), the other (150), or neither (110, and there P(other pixel < 0), in truth 0.144); T = 1000,
        cosine:

            imputer            nfe   64    110           150
            focus 25 × 20      481   0.38  1.21, 0.198   0.24   the default
            focus 25 × 40      961   0.30  0.53, 0.163   0.20
            repaint 50 × 10    491   0.46  4.44, 0.334   0.36   jump 5, its default; with jump 1 3.27, 0.283
            repaint 25 × 20    481   0.22  2.66, 0.263   0.36   jump 1
            repaint 100 × 20  1981   0.18  1.78, 0.220   0.12   jump 1
            pc 100 × (1 + 4)   500   0.64  7.13, 0.455   0.34   Langevin (Song et al. 2021), images of 32 pairs

        The schedule spends two thirds of its log SNR where noise hides what is known: returns there are lost.
        """
        return tables.repaint_low_noise(
            tables.ancestral(schedule, steps, tables.Variance.LARGE, spacing="log_snr"), times
        )

    def _repaint(self, schedule: Discrete, steps: int, times: float = 10, jump: float = 5) -> Tensor:
        """Return ancestral steps, resampled. What many returns settle in shows the error of a step many times over.

        Hence equal steps of log SNR, and beta for a variance: beta_tilde, exact where the data are a point, settles in
        conditionals a third too narrow. On a mixture with conditional deviations 0.15 | 0.08, T = 1000, 50 steps,
        10 times, jump 10: beta_tilde and equal steps of k 0.131 | 0.070, as it is here 0.154 | 0.086; and with jump 5,
        which mixes as well, 0.151 | 0.083.
        """
        rows = tables.ancestral(schedule, steps, tables.Variance.LARGE, spacing="log_snr")
        return tables.resample(rows, times, jump)

    def _walk(self, table: Tensor) -> Chain:
        return Chain(table, GaussianKernel(self.spec.shape, self.spec.levels, self.forward.denoise))
