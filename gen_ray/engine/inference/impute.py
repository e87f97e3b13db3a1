"""Fill the holes of instances: completions, where they disagree, and what they say of the truth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.evaluate import EFFORT, bits_per_dim
from gen_ray.engine.inference import memory
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.training.step import autocast
from gen_ray.errors import UserError
from gen_ray.family import Known, Nll, SupportsMaskedLikelihood
from gen_ray.maths.noise import generator

MODEL_LIKELIHOOD = "the model's own −log p(holes | known), or an upper bound on it"
BYTES_A_SCALAR = 28
"""Memory of a completion: the known values, the mask, the completion, and three copies in float64 for the spread."""
MARGINAL = "each missing scalar alone, by the spread of its completions: depends on their number, bounds no joint law"


@dataclass(frozen=True, kw_only=True)
class MaskedLikelihood:
    """What is made of a truth in the holes, nll (N,), and in words what its kind means."""

    nll: Nll
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Completions:
    """k ways to complete each of N instances: samples (N, k, *shape), mask (N, *shape) True where known.

    causal: whether each hole was filled by what stands before it alone.
    """

    samples: Tensor
    mask: Tensor
    spec: DataSpec
    nfe: int
    causal: bool = False

    @property
    def k(self) -> int:
        """Return the number of completions of an instance."""
        return self.samples.shape[1]

    def unseen_known(self) -> Tensor:
        """Return how many known scalars the first hole of an instance was filled in ignorance of, (N,)."""
        known = self.mask.flatten(1)
        return (known & (~known).cummax(1).values).sum(1) * self.causal

    def mean(self) -> Tensor:
        """Return the mean of the completions (N, *shape), float64; of images, for tokens have none."""
        return self.samples.double().mean(1)

    def uncertainty(self) -> Tensor:
        """Return how far the completions disagree (N, *shape), float64, 0 where known.

        Of images the standard deviation of a pixel, as a share of the range from black to white; of tokens the
        entropy of a position, in nats.
        """
        return UNCERTAINTY[self.spec.kind](self.samples, self.spec.levels).masked_fill(self.mask, 0.0)

    def marginal_nll(self, truth: Tensor) -> Nll:
        """Return −Σ log p_d(truth_d) over the holes (N,), nats, each scalar judged by the marginal of its completions.

        p_d = (k·f_d + uniform)/(k + 1), f_d fitted to the k completions of scalar d: of images a Gaussian cut into
        levels (its variance not below that of a level's width), of tokens the frequencies. The kind is
        ``marginal-k``: it knows nothing of how scalars hang together, and so is neither a bound on nor comparable
        with a joint likelihood.
        """
        truth = truth.reshape(self.mask.shape)
        fitted = MARGINALS[self.spec.kind](self.samples, truth, self.spec.levels)
        p = (self.k * fitted + 1 / self.spec.levels) / (self.k + 1)
        nats = -p.log().masked_fill(self.mask, 0.0).flatten(1).sum(1)
        return Nll(nats=nats, kind=f"marginal-{self.k}", nfe=self.k * self.nfe)

    def bits_per_dim(self, nll: Nll) -> Tensor:
        """Return a masked likelihood in bits per scalar that was missing, (N,)."""
        missing = (~self.mask).flatten(1).sum(1)
        return torch.stack([bits_per_dim(nats, int(d)) for nats, d in zip(nll.nats, missing, strict=True)])


def complete(
    model: Model,
    known: Tensor,
    mask: Tensor,
    k: int,
    *,
    imputer: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: torch.device,
) -> Completions:
    """Return k completions of known (N, *shape), stored data of which mask (N, *shape) True marks what is to be kept.

    imputer None means the family's default. Completion j of instance i is a function of (seed, i·k + j). Raise
    UserError for an unknown imputer, steps out of range, an instance in which nothing is missing, and more completions
    than fit into memory.
    """
    whole = [i for i, instance in enumerate(mask.flatten(1)) if bool(instance.all())]
    if whole:
        raise UserError(f"the mask of instance {whole[0]} has no hole: there is nothing to fill")
    n = len(known) * k
    memory.require(n * model.spec.dims * BYTES_A_SCALAR, f"{n:,} completions", "ask for fewer")
    imputers = model.family.imputers()
    asked = imputer or next(iter(imputers))
    chain, about = model.family.impute(asked, steps), imputers[asked.partition(":")[0]]
    held = Known(known=known.repeat_interleave(k, 0), mask=mask.repeat_interleave(k, 0))
    with autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, n, seed=seed, device=device, held=held)
    ways = samples.view(len(known), k, *known.shape[1:])
    return Completions(samples=ways, mask=mask, spec=model.spec, nfe=chain.nfe, causal=about.causal)


@torch.no_grad()
def masked_likelihood(
    model: Model, made: Completions, truth: Tensor, *, effort: int | None = None, seed: int = 0, device: torch.device
) -> MaskedLikelihood:
    """Return −log p of the truth (N, *shape) in the holes given what is known: by the model itself where it can say.

    Else by the marginals of the completions. effort None means the evaluation's; the draws are a function of the seed.
    """
    own = None
    if isinstance(model.family, SupportsMaskedLikelihood):
        x = torch.where(made.mask, made.samples[:, 0], truth.reshape(made.mask.shape)).to(device)
        rng, effort = generator(seed, device=device), effort or model.experiment.evaluation.effort or EFFORT
        own = model.family.masked_nll(model.net, x, made.mask.to(device), rng, effort=effort)
    if own is None:
        return MaskedLikelihood(nll=made.marginal_nll(truth), meaning=MARGINAL)
    return MaskedLikelihood(nll=replace(own, nats=own.nats.double().cpu()), meaning=MODEL_LIKELIHOOD)


def _spread(samples: Tensor, levels: int) -> Tensor:
    return samples.double().std(1, correction=int(samples.shape[1] > 1)) / (levels - 1)


def _entropy(samples: Tensor, levels: int) -> Tensor:
    shares = [(samples == token).double().mean(1) for token in samples.unique()]
    return torch.stack([torch.special.entr(share) for share in shares]).sum(0)  # −Σ p log p


def _gaussian(samples: Tensor, truth: Tensor, levels: int) -> Tensor:
    """Return the mass of truth's level under a Gaussian with the samples' moments; the edge levels take the tails."""
    x, u = samples.double(), truth.double()
    variance = x.var(1, correction=int(x.shape[1] > 1)) + 1 / 12
    law = torch.distributions.Normal(x.mean(1), variance.sqrt())
    upper = torch.where(u >= levels - 1, 1.0, law.cdf(u + 0.5))
    return upper - torch.where(u <= 0, 0.0, law.cdf(u - 0.5))


def _frequency(samples: Tensor, truth: Tensor, levels: int) -> Tensor:
    return (samples.long() == truth.long()[:, None]).double().mean(1)


UNCERTAINTY: Mapping[str, Callable[[Tensor, int], Tensor]] = {"image": _spread, "tokens": _entropy}
MARGINALS: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {"image": _gaussian, "tokens": _frequency}
