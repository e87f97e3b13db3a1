"""The interface between a family of generative models and the rest of the package.

A family is mathematics bound to a network's *signature*, never to its weights: ``net`` is always an argument, so a DDP
wrapper, an EMA copy and the net of a Serve replica can all be passed as ``net``.

Shapes: B batch, C channels, H height, W width, D scalars of an example.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gen_ray.configuration.base import Config
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.maths.chain import Chain, Stepper
from gen_ray.maths.sampler import Sampler, TableSampler, parse_sampler


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """A training loss per example, shape (B,), in nats up to the family's weighting, and its named parts."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Nll:
    """Negative log-likelihood of the discrete data or a bound: (B,) nats, kind, network evaluations per example.

    ``cells`` (B, *shape) are the parts of nats due to each scalar, where the family can tell; they add up to nats. A
    kind that ends in ``-partial`` means that some values are missing: nats is then that of the others.
    """

    nats: Tensor
    kind: str
    nfe: int
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    cells: Tensor | None = None


class NetConfig(Protocol):
    """The part of a net's settings that a family checks: its name, and the kinds of data that it models."""

    kinds: ClassVar[frozenset[str]]

    @property
    def name(self) -> str:
        """Return the net's name."""
        ...


class FamilyConfig(Config):
    """The section ``family`` of an experiment; each family adds its own keys."""

    loss_is_bound: ClassVar[bool] = False
    """Whether the training loss is a bound on the likelihood for every value of the other keys, so it can rank them."""

    name: str

    @property
    def modelled_values(self) -> str:
        """Return the kind of values that the likelihood models: ``stored``, or how they are binarised first."""
        return "stored"


class Family(ABC):
    """A family of generative models, made from its Config and the DataSpec of the data."""

    Config: ClassVar[type[FamilyConfig]]

    def __init__(self, config: FamilyConfig, spec: DataSpec) -> None:
        """Store the settings and the data's spec. Raise UserError if the two are incompatible."""
        self.config, self.spec = config, spec

    def require_data(self, *kinds: str) -> None:
        """Raise UserError if the data are not of one of these kinds."""
        if self.spec.kind not in kinds:
            data = f"{self.spec.name} holds {self.spec.kind}"
            modelled = " and ".join(kinds)
            raise UserError(f"family.name: {self.config.name} models data of kind {modelled}; {data} (use discrete)")

    def require_net(self, net: NetConfig, nets: Mapping[str, str]) -> None:
        """Raise UserError if the family or its net does not model data of this kind.

        nets are the names of the family's nets by the kind of data, as an error lists them.
        """
        self.require_data(*nets)
        kind = self.spec.kind
        if kind not in net.kinds:
            data = f"{self.spec.name} holds {kind}"
            raise UserError(f"family.net: {net.name} does not model data of kind {kind}; {data}, use net {nets[kind]}")

    @abstractmethod
    def build_net(self) -> nn.Module:
        """Return a newly initialised network with the signature that this family expects."""

    def fitted(self, net: nn.Module) -> "Family":
        """Return this family with the forward process that the unwrapped net has learned.

        A family with a fixed process returns itself. Call this once before sampling, imputing or scoring with a trained
        net; ``loss`` does not need it.
        """
        return self

    @abstractmethod
    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return the training loss of a batch of stored data x (B, *shape), integers in {0 … levels-1}.

        step counts optimizer steps from 0; warm-ups use it.
        """

    @abstractmethod
    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return −log p(x) or a bound, per example (B,), in nats of the *discrete* data.

        effort is the number of draws per example (importance samples, time steps). More draws make the result tighter
        or less noisy; it is never biased in the model's favour.
        """

    @property
    @abstractmethod
    def stepper(self) -> Stepper:
        """Return the stepper that executes the tables of all samplers and imputers."""

    @abstractmethod
    def sampler_tables(self) -> Mapping[str, TableSampler]:
        """Return the samplers by name, the default one first."""

    @abstractmethod
    def imputer_tables(self) -> Mapping[str, TableSampler]:
        """Return the imputers by name, the default one first: the samplers that complete partly known data."""

    def samplers(self) -> Mapping[str, Sampler]:
        """Return the descriptions of the samplers by name, the default one first."""
        return {name: one.about for name, one in self.sampler_tables().items()}

    def imputers(self) -> Mapping[str, Sampler]:
        """Return the descriptions of the imputers by name, the default one first."""
        return {name: one.about for name, one in self.imputer_tables().items()}

    def chain(self, sampler: str, steps: int | None = None) -> Chain:
        """Return the chain of the sampler ``name`` or ``name:option=value,…``; steps None means its default.

        Raise UserError for an unknown sampler or option, naming the known ones, and for steps out of range.
        """
        return self._chain("sampler", self.sampler_tables(), sampler, steps)

    def impute(self, imputer: str, steps: int | None = None) -> Chain:
        """Return the chain of an imputer, which starts from ``stepper.start(…, held)``. Raise UserError as in chain."""
        return self._chain("imputer", self.imputer_tables(), imputer, steps)

    def _chain(self, kind: str, known: Mapping[str, TableSampler], text: str, steps: int | None) -> Chain:
        name, options = parse_sampler(text, {name: one.about for name, one in known.items()}, kind, steps=steps)
        chosen = known[name]
        return Chain(chosen.table(chosen.about.default_steps if steps is None else steps, **options), self.stepper)


@runtime_checkable
class SupportsLatent(Protocol):
    """The methods of a family with a latent space: p(x|z), z ~ N(0, I), q(z|x) = N(mu, diag e^log_var).

    Commands on the latent space check for this protocol, not for a family's name.
    """

    @property
    def latent_dim(self) -> int:
        """Return Z."""
        ...

    def observe(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the data (B, *shape) that p(x|z) models, for stored data x (B, *shape).

        They are a random draw where the family binarises at random.
        """
        ...

    def encode(self, net: nn.Module, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log_var of q(z|x), each (B, Z)."""
        ...

    def decode(self, net: nn.Module, z: Tensor) -> Tensor:
        """Return the mean of p(x|z) as levels (B, *shape) for z (B, Z)."""
        ...

    def log_likelihood(self, net: nn.Module, observed: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z), nats (B,)."""
        ...


@runtime_checkable
class SupportsMaskedLikelihood(Protocol):
    """The method of a family that can evaluate the likelihood of a completion, p(missing part | known part).

    Evaluations of the true missing values use it first, and compare completions where it returns None.
    """

    def masked_nll(self, net: nn.Module, x: Tensor, mask: Tensor, rng: torch.Generator, *, effort: int) -> Nll | None:
        """Return −log p(x where mask is False | x where it is True) or a bound, per example (B,), nats.

        x (B, *shape) is stored data, mask (B, *shape) True where known; effort as in ``Family.nll``. If nothing is
        known the result is that of ``nll``. None means that the model cannot give such a bound for these masks.
        """
        ...


@runtime_checkable
class SupportsMarginals(Protocol):
    """The method of a family whose net gives the distribution of each missing value by itself, without sampling."""

    def marginals(self, net: nn.Module, x: Tensor, mask: Tensor) -> Tensor | None:
        """Return p(x_d | known values) for every scalar d: (B, *shape, K), float64.

        x (B, *shape) is stored data, mask (B, *shape) True where known; a known value has probability 1. These are the
        marginals of the completions that the imputers draw; they do not describe the dependence of missing values. None
        means that the model has no such form.
        """
        ...
