"""Chains that mask one position after the other: in random order, or from the last to the first (autoregressive)."""

from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.families.discrete.process import ForwardKernel, KernelConfig
from gen_ray.family import LossTerms, Nll
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths import discrete_tables as tables
from gen_ray.maths.noise import stratified_steps
from gen_ray.maths.sampler import Sampler, TableSampler

DEFAULT_REVEALS = 256
"""The largest default number of network evaluations of the samplers that reveal several positions at once."""


class MaskingKernel(ForwardKernel):
    """The common part of masking chains: likelihoods, and samplers that reveal positions."""

    kind = "elbo-ct"

    @cached_property
    def weights(self) -> Tensor:
        """Return the bound's weight (D,) of each number 1 … D of masked positions."""
        return self.weigh(self.D)

    def weigh(self, m: int) -> Tensor:
        """Return the weight (m,) of each number 1 … m of masked positions, if m positions are not known."""
        return bounds.count_weights(m)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return the bound (B,) by at most D evaluations, each at a different number of masked positions."""
        present = bounds.observed(x, self.K)
        return self._bound(net, x, present, rng, effort, self.kind if bool(present.all()) else f"{self.kind}-partial")

    def masked_nll(self, net: nn.Module, x: Tensor, missing: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return the bound (B,) on the missing values, by at most as many evaluations as there are missing values."""
        return self._bound(net, x, missing & bounds.observed(x, self.K), rng, effort, f"{self.kind}-masked")

    def _bound(self, net: nn.Module, x: Tensor, targets: Tensor, rng: torch.Generator, effort: int, kind: str) -> Nll:
        """Return the bound (B,) on the values at targets (B, *shape) given all others, for any number of them."""
        cells, nfe = bounds.masked_bound_cells(net, x, targets, self._weights_of, self.K, effort, rng)
        return Nll(nats=cells.flatten(1).sum(1), kind=kind, nfe=nfe, cells=cells)

    def _weights_of(self, m: int) -> Tensor:
        return self.weights if m == self.D else self.weigh(m)

    def marginals(self, net: nn.Module, x: Tensor, known: Tensor) -> Tensor:
        """Return p(x_i | known values), (B, *shape, K) float64: the net's prediction with all other values masked."""
        known = known & bounds.observed(x, self.K)
        inputs = torch.where(known, x, self.K)
        p = net(inputs, bounds.masked_share(~known)).double().softmax(-1)
        certain = torch.nn.functional.one_hot(x.masked_fill(~known, 0), self.K).to(p)
        return torch.where(known[..., None], certain, p)

    def samplers(self) -> dict[str, TableSampler]:
        """Return ``first_hitting``, ``confidence`` and ``order`` (left to right)."""
        D, few = self.D, min(self.D, DEFAULT_REVEALS)
        first_hitting = Sampler(
            default_steps=few, nfe_per_step=1, summary=f"Zheng et al. 2025: random order, exact at {D} steps"
        )
        confidence = Sampler(
            default_steps=few,
            nfe_per_step=1,
            summary="Chang et al. 2022 (MaskGIT): the most confident positions first",
            options={"temperature": (0.0, 100.0)},
        )
        return {
            "first_hitting": TableSampler(first_hitting, partial(tables.first_hitting, D)),
            "confidence": TableSampler(confidence, partial(tables.confident, D)),
            "order": _left_to_right(D),
        }


def _left_to_right(D: int) -> TableSampler:
    about = Sampler(default_steps=1, nfe_per_step=D, summary="Austin et al. 2021, section 4: positions in order")
    return TableSampler(about, partial(tables.in_order, D))


class RandomOrderKernel(MaskingKernel):
    """The any-order chain, trained by its bound at a number of masked positions drawn uniformly from 1 … D."""

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return m/n·Σ −ln p(x_0) over n masked ones of m values, (B,) nats (Hoogeboom et al. 2022, eq. 5)."""
        present = bounds.observed(x, self.K)
        m = present.flatten(1).sum(1)
        n = stratified_steps(m.clamp(min=1), len(x), rng, x.device)
        nats = bounds.masked_nats(net, x, bounds.random_masks(x, n, rng, present), self.K)
        elbo = m / n.float() * nats
        return LossTerms(total=elbo, parts={"elbo_nats": elbo})


class AutoregressiveKernel(ForwardKernel):
    """The autoregressive chain with a causal net: one evaluation gives the exact likelihood."""

    causal = True

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return −ln p(x), (B,) nats."""
        nats = bounds.ordered_nats(net, x, bounds.observed(x, self.K))
        return LossTerms(total=nats, parts={"nll_nats": nats})

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return −ln p(x), (B,) nats, exact for every effort."""
        present = bounds.observed(x, self.K)
        kind = "ar" if bool(present.all()) else "ar-partial"
        return Nll(nats=bounds.ordered_nats(net, x, present), kind=kind, nfe=1)

    def masked_nll(self, net: nn.Module, x: Tensor, missing: Tensor, rng: torch.Generator, effort: int) -> Nll | None:
        """Return the exact value (B,) if the missing values are the last positions, else None.

        A causal net cannot take into account known values after a missing one.
        """
        last = missing.flatten(1)
        if bool((last[:, :-1] & ~last[:, 1:]).any()):
            return None
        return Nll(nats=bounds.ordered_nats(net, x, missing), kind="ar-masked", nfe=1)

    def samplers(self) -> dict[str, TableSampler]:
        """Return ``order`` (left to right)."""
        return {"order": _left_to_right(self.D)}

    def imputers(self) -> dict[str, TableSampler]:
        """Return ``order``, described as causal: it uses the known values before a position, never those after it."""
        order = _left_to_right(self.D)
        summary = (
            "positions in order, each given those before it; known values after a missing one are kept but not used"
        )
        return {"order": replace(order, about=replace(order.about, summary=summary, causal=True))}


class RandomOrderConfig(KernelConfig):
    """The settings of the random-order chain: positions become [MASK] one after the other in random order."""

    name: Literal["random_order"] = "random_order"

    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the kernel on data of this spec."""
        return RandomOrderKernel(self, spec)


class OrderConfig(KernelConfig):
    """The settings of the autoregressive chain: at step t the t-th position from the end becomes [MASK]."""

    name: Literal["order"] = "order"

    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the kernel on data of this spec."""
        return AutoregressiveKernel(self, spec)
