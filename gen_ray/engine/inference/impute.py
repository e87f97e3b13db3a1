"""Imputation: completions of instances with missing values, their uncertainty, and the likelihood of the truth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import memory
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.score import bits_per_dim, effort_of
from gen_ray.errors import UserError
from gen_ray.family import Nll, SupportsMaskedLikelihood
from gen_ray.maths.chain import Known
from gen_ray.maths.noise import generator

MODEL_LIKELIHOOD = "the model's own −log p(missing | known), or an upper bound on it"
BYTES_PER_SCALAR = 28
"""Bytes per scalar of a completion: known value, mask, completion, and three float64 copies for the uncertainty."""
MARGINAL = "each missing scalar separately, from its completions: depends on their number; not a bound on the joint"


@dataclass(frozen=True, kw_only=True)
class MaskedLikelihood:
    """The likelihood of the true missing values, nll (N,), and a description of its kind."""

    nll: Nll
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Completions:
    """k completions of each of N instances: samples (N, k, *shape), mask (N, *shape) True where known.

    causal: whether each missing value was filled using only the values before it.
    """

    samples: Tensor
    mask: Tensor
    spec: DataSpec
    nfe: int
    causal: bool = False

    @property
    def k(self) -> int:
        """Return the number of completions per instance."""
        return self.samples.shape[1]

    def unseen_known(self) -> Tensor:
        """Return for each instance how many known scalars its first missing value was filled without, (N,)."""
        known = self.mask.flatten(1)
        return (known & (~known).cummax(1).values).sum(1) * self.causal

    def mean(self) -> Tensor:
        """Return the mean of the completions of images (N, *shape), float64; tokens have no mean."""
        return self.samples.double().mean(1)

    def uncertainty(self) -> Tensor:
        """Return the disagreement of the completions (N, *shape), float64, 0 where known.

        For images: the standard deviation of a pixel as a share of the range from black to white. For tokens: the
        entropy of a position, in nats.
        """
        return UNCERTAINTY[self.spec.kind](self.samples, self.spec.levels).masked_fill(self.mask, 0.0)

    def marginal_nll(self, truth: Tensor) -> Nll:
        """Return −Σ log p_d(truth_d) over the missing scalars (N,), nats, from the marginals of the completions.

        p_d = (k·f_d + uniform)/(k + 1), where f_d is fitted to the k completions of scalar d: for images a Gaussian
        discretised to levels (its variance at least that of a level's width), for tokens the frequencies. The kind is
        ``marginal-k``. It ignores the dependence between scalars; it is therefore not a bound on a joint likelihood and
        not comparable with one.
        """
        truth = truth.reshape(self.mask.shape)
        fitted = MARGINALS[self.spec.kind](self.samples, truth, self.spec.levels)
        p = (self.k * fitted + 1 / self.spec.levels) / (self.k + 1)
        nats = -p.log().masked_fill(self.mask, 0.0).flatten(1).sum(1)
        return Nll(nats=nats, kind=f"marginal-{self.k}", nfe=self.k * self.nfe)

    def bits_per_dim(self, nll: Nll) -> Tensor:
        """Return a masked likelihood in bits per missing scalar, (N,)."""
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
    """Return k completions of known (N, *shape), stored data; mask (N, *shape) is True where values are kept.

    imputer None means the family's default. Completion j of instance i is a function of (seed, i·k + j). Raise
    UserError for an unknown imputer, steps out of range, an instance without a missing value, and more completions than
    fit into memory.
    """
    complete_instances = [i for i, instance in enumerate(mask.flatten(1)) if bool(instance.all())]
    if complete_instances:
        raise UserError(f"the mask of instance {complete_instances[0]} has no missing value; mark at least one")
    n = len(known) * k
    memory.require(n * model.spec.dims * BYTES_PER_SCALAR, f"{n:,} completions", "ask for fewer")
    imputers = model.family.imputers()
    name = imputer or next(iter(imputers))
    chain, about = model.family.impute(name, steps), imputers[name.partition(":")[0]]
    known_rows = Known(known=known.repeat_interleave(k, 0), mask=mask.repeat_interleave(k, 0))
    with autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, n, seed=seed, device=device, known=known_rows)
    completions = samples.view(len(known), k, *known.shape[1:])
    return Completions(samples=completions, mask=mask, spec=model.spec, nfe=chain.nfe, causal=about.causal)


@torch.no_grad()
def masked_likelihood(
    model: Model,
    completions: Completions,
    truth: Tensor,
    *,
    effort: int | None = None,
    seed: int = 0,
    device: torch.device,
) -> MaskedLikelihood:
    """Return −log p of the true missing values (truth (N, *shape)) given the known ones.

    It is the model's own likelihood if the family supports that, else that of the marginals of the completions. effort
    None means the evaluation's; the draws are a function of the seed.
    """
    joint = None
    if isinstance(model.family, SupportsMaskedLikelihood):
        x = torch.where(completions.mask, completions.samples[:, 0], truth.reshape(completions.mask.shape)).to(device)
        rng, effort = generator(seed, device=device), effort_of(model, effort)
        joint = model.family.masked_nll(model.net, x, completions.mask.to(device), rng, effort=effort)
    if joint is None:
        return MaskedLikelihood(nll=completions.marginal_nll(truth), meaning=MARGINAL)
    return MaskedLikelihood(nll=replace(joint, nats=joint.nats.double().cpu()), meaning=MODEL_LIKELIHOOD)


def _spread(samples: Tensor, levels: int) -> Tensor:
    return samples.double().std(1, correction=int(samples.shape[1] > 1)) / (levels - 1)


def _entropy(samples: Tensor, levels: int) -> Tensor:
    shares = [(samples == token).double().mean(1) for token in samples.unique()]
    return torch.stack([torch.special.entr(share) for share in shares]).sum(0)  # −Σ p log p


def _gaussian(samples: Tensor, truth: Tensor, levels: int) -> Tensor:
    """Return the mass of truth's level under a Gaussian with the samples' moments; outer levels include the tails."""
    x, u = samples.double(), truth.double()
    variance = x.var(1, correction=int(x.shape[1] > 1)) + 1 / 12
    normal = torch.distributions.Normal(x.mean(1), variance.sqrt())
    upper = torch.where(u >= levels - 1, 1.0, normal.cdf(u + 0.5))
    return upper - torch.where(u <= 0, 0.0, normal.cdf(u - 0.5))


def _frequency(samples: Tensor, truth: Tensor, levels: int) -> Tensor:
    return (samples.long() == truth.long()[:, None]).double().mean(1)


UNCERTAINTY: Mapping[str, Callable[[Tensor, int], Tensor]] = {"image": _spread, "tokens": _entropy}
MARGINALS: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {"image": _gaussian, "tokens": _frequency}
