"""The seam: what the rest of the house may ask of a family of generative models.

A family is mathematics bound to a network's *signature*, never to its weights: ``net`` is always an argument, so that
a DDP wrapper, an EMA copy and a Serve replica are all just ``net``.

Shapes: B batch, C channels, H height, W width, D scalars of an example, N table rows, R table columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gen_ray.configuration.base import Config
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError, nearest
from gen_ray.maths.noise import RowNoise

State = dict[str, Tensor]
"""What a chain carries from one network evaluation to the next; the first axis of every tensor is B."""


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """A training loss per example, shape (B,), in nats up to a family's own weighting, and its named parts."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Nll:
    """Negative log-likelihood (or its bound) of the discrete data: (B,) nats, its kind, network evaluations each."""

    nats: Tensor
    kind: str
    nfe: int
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the data to be completed: known (B, *shape) as stored, mask (B, *shape) True where known."""

    known: Tensor
    mask: Tensor

    def part(self, first: int, size: int) -> "Known":
        """Return rows first … first+size−1."""
        rows = slice(first, first + size)
        return Known(known=self.known[rows], mask=self.mask[rows])


class Kernel(Protocol):
    """The update that all chains of one model share. Row-wise: rows of a batch may stand in different chains."""

    def start(self, noise: RowNoise, device: torch.device, held: Known | None = None) -> State:
        """Draw the state (B, …) at the beginning of the chain from the prior.

        Where something is held the state carries it, and every tick brings it to the noise level it ends at; after the
        last tick the known part is bit for bit what was given. It may do so in entries of its own; rows of a batch of
        which something is held have those, and where they are 0 nothing is.
        """
        ...

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Advance every row of the state by one network evaluation along its table row; rows is (B, R)."""
        ...

    def finish(self, state: State) -> Tensor:
        """Return the data (B, *shape) as integers in {0 … levels-1}."""
        ...

    def preview(self, state: State) -> Tensor:
        """Return the data as they stand to become (B, *shape), integers; −1 where nothing is decided yet."""
        ...


@dataclass(frozen=True)
class Chain:
    """A sampler: a float64 table (N, R), one row a network evaluation, and the kernel that walks it."""

    table: Tensor
    kernel: Kernel

    @property
    def nfe(self) -> int:
        """Return the number of network evaluations."""
        return len(self.table)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """What a family says of one of its samplers: default steps, nfe per step, its source and what it is."""

    default_steps: int
    nfe_per_step: int
    summary: str
    options: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The numbers it takes as ``name:option=number``, with their allowed range."""
    nfe_saved: int = 0
    """Evaluations that its last step does without."""
    adaptive: bool = False
    """Whether a row of its table is as many evaluations as a solver takes."""
    causal: bool = False
    """Whether, as an imputer, it fills a place by what stands before it alone; what comes after is not heeded."""
    least_steps: int = 1
    """Fewer are refused: there the method is unstable, or an outlier even with an exact net."""

    def nfe(self, steps: int) -> int:
        """Return the network evaluations of so many steps, all options at their defaults."""
        return self.nfe_per_step * steps - self.nfe_saved

    def steps_up_to(self, most: int) -> int:
        """Return the default number of steps, but at most ``most`` unless more are needed."""
        return max(self.least_steps, min(self.default_steps, most))


def parse_sampler(
    text: str, known: Mapping[str, Sampler], what: str = "sampler", *, steps: int | None
) -> tuple[str, dict[str, float]]:
    """Split ``name`` or ``name:option=number,…``. Raise UserError for an unknown name or option and for too few steps.

    what says which kind of chain is meant, a sampler or an imputer. The upper limit of steps is the caller's.
    """
    name, _, tail = text.partition(":")
    if name not in known:
        raise UserError(f"{what}: there is no {what} {name!r}; {nearest(name, known)}")
    options: dict[str, float] = {}
    for item in filter(None, tail.split(",")):
        key, _, number = item.partition("=")
        if key not in known[name].options:
            raise UserError(
                f"{what} {name}: there is no option {key!r}; known: {', '.join(known[name].options) or 'none'}"
            )
        low, high = known[name].options[key]
        try:
            options[key] = float(number)
        except ValueError:
            raise UserError(f"{what} {name}: option {key}={number!r} is not a number") from None
        if not low <= options[key] <= high:
            raise UserError(f"{what} {name}: option {key}={number} is outside [{low:g}, {high:g}]")
    least = known[name].least_steps
    if steps is not None and 0 < steps < least:
        raise UserError(f"steps: {what} {name!r} needs at least {least} steps, got {steps}")
    return name, options


class FamilyConfig(Config):
    """The section ``family`` of an experiment; each family adds its own keys."""

    loss_is_bound: ClassVar[bool] = False
    """Whether the training loss bounds the likelihood whatever the other keys are, so that it can rank them."""

    name: str

    @property
    def modelled_values(self) -> str:
        """Return which values the likelihood is of: ``stored``, or how they are binarised first."""
        return "stored"


class Family(ABC):
    """One family of generative models, made from its Config and the DataSpec it is to model."""

    Config: ClassVar[type[FamilyConfig]]

    def __init__(self, config: FamilyConfig, spec: DataSpec) -> None:
        """Bind settings to data. Raise UserError where the two do not go together."""
        self.config, self.spec = config, spec

    def require_images(self) -> None:
        """Raise UserError where the data are not images (C, H, W): for a family of continuous values."""
        if not self.spec.is_image:
            data = f"{self.spec.name} holds {self.spec.kind}"
            raise UserError(f"family.name: {self.config.name} models images; {data} (use discrete)")

    @abstractmethod
    def build_net(self) -> nn.Module:
        """Return a freshly initialised network of the signature this family expects."""

    def fitted(self, net: nn.Module) -> "Family":
        """Return this family on what the bare net has learned of the process itself: itself where that is nothing.

        Whoever samples, completes or scores with a trained net asks for this once; loss needs it not.
        """
        return self

    @abstractmethod
    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return the training loss of a batch of stored data x (B, *shape), integers in {0 … levels-1}.

        step counts optimizer steps from 0; it is there for warm-ups.
        """

    @abstractmethod
    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return −log p(x) or a bound, per example (B,), in nats of the *discrete* data.

        effort is the number of draws spent on an example (importance samples, time steps): more is tighter or
        less noisy, never biased in the model's favour.
        """

    @abstractmethod
    def samplers(self) -> Mapping[str, Sampler]:
        """Return the samplers by name, the default one first."""

    @abstractmethod
    def chain(self, sampler: str, steps: int | None = None) -> Chain:
        """Return the table of ``name`` or ``name:option=value,…``; steps None means its default.

        Raise UserError for an unknown sampler or option, naming the known ones, and for steps out of range.
        """

    @abstractmethod
    def imputers(self) -> Mapping[str, Sampler]:
        """Return, by name, the chains that complete data of which a part is held, the default one first."""

    @abstractmethod
    def impute(self, imputer: str, steps: int | None = None) -> Chain:
        """Return the table of an imputer, walked from ``kernel.start(…, held)``. Raise UserError as chain does."""


@runtime_checkable
class SupportsLatent(Protocol):
    """What a family can do besides where it has a latent space: p(x|z), z ~ N(0, I), q(z|x) = N(mu, diag e^log_var).

    Verbs about the latent space ask for this and not for a family's name.
    """

    @property
    def latent_dim(self) -> int:
        """Return Z."""
        ...

    def observe(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return what p(x|z) explains of stored data x (B, *shape): a draw where the data are binarised at random."""
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
    """What a family can do besides where it knows how probable a completion is, p(missing part | known part).

    Whoever judges a truth in the holes asks for this first, and judges by completions where there is no answer.
    """

    def masked_nll(self, net: nn.Module, x: Tensor, mask: Tensor, rng: torch.Generator, *, effort: int) -> Nll | None:
        """Return −log p(x where mask is False | x where it is True) or a bound, per example (B,), nats.

        x (B, *shape) is stored data, mask (B, *shape) True where known; effort as in ``Family.nll``. Where nothing is
        known that is ``nll``. None means that this model has no such bound for these masks.
        """
        ...
