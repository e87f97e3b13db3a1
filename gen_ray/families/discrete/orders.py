"""Chains that mask one place after the other: in random order, or from the last to the first (autoregressive)."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.families.discrete.process import ForwardKernel, KernelConfig, TableFunction
from gen_ray.family import LossTerms, Nll, Sampler
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths import discrete_tables as tables
from gen_ray.maths.noise import strata

DEFAULT_REVEALS = 256
"""Network evaluations, at most, of the samplers that reveal some places at each."""


class MaskingKernel(ForwardKernel):
    """What chains that mask have in common: the likelihood, and samplers that reveal."""

    kind = "elbo-ct"

    @cached_property
    def weights(self) -> Tensor:
        """Return what a number of masked places weighs in the bound (D,)."""
        return self.weigh(self.D)

    def weigh(self, m: int) -> Tensor:
        """Return what each number of masked places weighs (m,) where m places are not known from the start."""
        return bounds.count_weights(m)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return the bound by at most D evaluations, each at another number of masked places."""
        draws = min(effort, self.D)
        nats = bounds.masked_bound(net, x, rng, self.weights, self.K, draws)
        return Nll(nats=nats, kind=self.kind, nfe=draws)

    def masked_nll(self, net: nn.Module, x: Tensor, holes: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return the bound of revealing the holes alone, by at most as many evaluations as there are holes."""
        counts, nats = holes.flatten(1).sum(1), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for m in counts[counts > 0].unique().tolist():
            rows = counts == m
            weights, draws = self.weigh(m), min(effort, m)
            nats[rows] = bounds.masked_bound(net, x[rows], rng, weights, self.K, draws, holes[rows]).double()
        return Nll(nats=nats, kind=f"{self.kind}-masked", nfe=min(effort, int(counts.max())))

    def samplers(self) -> dict[str, tuple[Sampler, TableFunction]]:
        """Return first hitting, confidence and left to right."""
        D, few = self.D, min(self.D, DEFAULT_REVEALS)
        return {
            "first_hitting": (
                Sampler(
                    default_steps=few, nfe_per_step=1, summary=f"Zheng et al. 2025: random places, exact at {D} steps"
                ),
                lambda steps, options: tables.first_hitting(D, few if steps is None else steps),
            ),
            "confidence": (
                Sampler(
                    default_steps=few,
                    nfe_per_step=1,
                    summary="Chang et al. 2022 (MaskGIT): the surest places first",
                    options={"temperature": (0.0, 100.0)},
                ),
                lambda steps, options: tables.confident(
                    D, few if steps is None else steps, options.get("temperature", 0.0)
                ),
            ),
            "order": _left_to_right(D),
        }


def _left_to_right(D: int) -> tuple[Sampler, TableFunction]:
    def make(steps: int | None, options: Mapping[str, float]) -> Tensor:
        if steps not in (None, 1):
            raise UserError(f"steps: order takes one pass of {D} evaluations, a place each (leave steps out)")
        return tables.in_order(D)

    return Sampler(default_steps=1, nfe_per_step=D, summary="Austin et al. 2021, section 4: the places in order"), make


class RandomOrderKernel(MaskingKernel):
    """The any-order bound, trained at a number of masked places drawn evenly from 1 … D."""

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return D/n·Σ −ln p(x_0) over n masked places (Hoogeboom et al. 2022, eq. 5)."""
        n = 1 + (strata(len(x), rng, x.device) * self.D).long().clamp(max=self.D - 1)
        nats = bounds.masked_nats(net, x, bounds.random_masks(x, n, rng), self.K)
        elbo = self.D / n.float() * nats
        return LossTerms(total=elbo, parts={"elbo_nats": elbo})


class AutoregressiveKernel(ForwardKernel):
    """The autoregressive chain, on a causal net: one evaluation is the exact likelihood."""

    causal = True

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return −ln p(x)."""
        nats = bounds.ordered_nats(net, x)
        return LossTerms(total=nats, parts={"nll_nats": nats})

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return −ln p(x), exact whatever the effort."""
        return Nll(nats=bounds.ordered_nats(net, x), kind="ar", nfe=1)

    def masked_nll(self, net: nn.Module, x: Tensor, holes: Tensor, rng: torch.Generator, effort: int) -> Nll | None:
        """Return the exact value where the holes are the last places; what is known after a hole it cannot weigh."""
        last = holes.flatten(1)
        if bool((last[:, :-1] & ~last[:, 1:]).any()):
            return None
        return Nll(nats=bounds.ordered_nats(net, x, holes), kind="ar-masked", nfe=1)

    def samplers(self) -> dict[str, tuple[Sampler, TableFunction]]:
        """Return left to right."""
        return {"order": _left_to_right(self.D)}

    def imputers(self) -> dict[str, tuple[Sampler, TableFunction]]:
        """Return the same, which says that a causal net heeds what is known *before* a place, never after."""
        sampler, make = _left_to_right(self.D)
        summary = (
            "the places in order, each by what stands before it: what is known after a hole is kept but not heeded"
        )
        return {"order": (replace(sampler, summary=summary, causal=True), make)}


class RandomOrderConfig(KernelConfig):
    """One place after the other becomes [MASK], in random order."""

    name: Literal["random_order"] = "random_order"

    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the chain."""
        return RandomOrderKernel(self, spec)


class OrderConfig(KernelConfig):
    """At step t the t-th place from the end becomes [MASK]."""

    name: Literal["order"] = "order"

    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the chain."""
        return AutoregressiveKernel(self, spec)
