"""Imputation by a VAE whose conditional p(x_missing | x_known) is known by enumeration or in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.generate import generate
from gen_ray.families.vae import Vae, VaeConfig
from gen_ray.maths.chain import Chain, Known, State
from gen_ray.maths.noise import RowNoise
from tests.families import test_vae_oracle as oracle
from tests.families.cases import rng

CPU = torch.device("cpu")
CHI_SQUARE = {1: 10.8, 2: 13.8, 3: 16.3}  # p = 0.001
N = 2000
STRENGTH = {"bernoulli": 5, "categorical": 5, "logistic": 1.5}  # every level keeps a measurable probability


def strong(name: str, *, spoil: float = 0.0) -> tuple[Vae, nn.Module, Tensor, Tensor]:
    """Return an enumerable VAE whose pixels depend on z, a net with a spoilt encoder mean, all images and log p(x)."""
    vae, net, x, _ = oracle.tiny(name)
    last = [part for part in net.decoder.modules() if isinstance(part, nn.Linear)][-1]
    last.weight.mul_(STRENGTH[name])
    head = [part for part in net.encoder.modules() if isinstance(part, nn.Linear)][-1]
    head.bias.add_(torch.tensor([spoil, 0.0]))
    z = torch.linspace(-8, 8, 2001)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z) + math.log(16 / 2000)
    params = net.decode(z[:, None])
    joint = [vae.observation.log_prob(u.expand(2001, *u.shape), params).flatten(1).sum(1) + log_prior for u in x]
    return vae, net, x, torch.stack(joint).double().logsumexp(1)


class Quick:
    """Noise of N rows drawn at once, which is fast; statistical tests need no separate stream per row."""

    batch = N

    def __init__(self, seed: int = 0) -> None:
        self.rng = rng(seed)

    def normal(self, shape: tuple[int, ...], **_: object) -> Tensor:
        return torch.randn(N, *shape, generator=self.rng)

    def uniform(self, shape: tuple[int, ...], **_: object) -> Tensor:
        return torch.rand(N, *shape, generator=self.rng, dtype=torch.float64)


@torch.no_grad()
def run_chain(net: nn.Module, chain: Chain, known_part: Known) -> State:
    """Return the state at the end of a chain of N rows."""
    noise = Quick()
    state = chain.stepper.start(noise, CPU, known_part)
    for row in chain.table:
        state = chain.stepper.tick(net, state, row.expand(N, -1), noise)
    return state


def distance(vae: Vae, net: nn.Module, imputer: str, log_p: Tensor, first: int) -> tuple[float, int]:
    """Return the chi-square of completions of the second pixel given the first, and its degrees of freedom."""
    levels, shape, chain = vae.spec.levels, vae.spec.shape, vae.impute(imputer, 150)
    known, mask = torch.zeros(N, 2, dtype=torch.uint8), torch.zeros(N, 2, dtype=torch.bool)
    known[:, 0], known[:, 1], mask[:, 0] = first, levels - 1, True  # the value at the missing place must not matter
    x = chain.stepper.finish(
        run_chain(net, chain, Known(known=known.view(N, *shape), mask=mask.view(N, *shape)))
    ).flatten(1)
    assert (x[:, 0] == first).all()
    expected = N * log_p.view(levels, levels)[first].softmax(0)
    counted = torch.bincount(x[:, 1].long(), minlength=levels)
    return float(((counted - expected) ** 2 / expected).sum()), levels - 1


@pytest.mark.parametrize("spoil", [0.0, 0.7], ids=["as-it-is", "spoiled"])
@pytest.mark.parametrize("name", oracle.TINY)
def test_metropolis_completions_follow_the_conditional_for_any_encoder(name: str, spoil: float) -> None:
    vae, net, _, log_p = strong(name, spoil=spoil)
    for first in range(vae.spec.levels):
        statistic, freedom = distance(vae, net, "metropolis", log_p, first)
        assert statistic < CHI_SQUARE[freedom]


def test_gibbs_without_the_correction_is_biased_by_a_bad_encoder() -> None:
    vae, net, _, log_p = strong("categorical", spoil=0.7)
    assert max(distance(vae, net, "gibbs", log_p, first)[0] for first in range(3)) > 50


# ---- the linear Gaussian ------------------------------------------------------------------------------------------


def conditional(known: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (2,) and covariance (2, 2) of x[2:] given x[:2] under N(b, WWᵀ + S²I)."""
    law, b = (oracle.W @ oracle.W.T + oracle.S**2 * torch.eye(4)).double(), oracle.B.double()
    gain = law[2:, :2] @ law[:2, :2].inverse()
    return b[2:] + gain @ (known - b[:2]), law[2:, 2:] - gain @ law[:2, 2:]


def bias(net: nn.Module, imputer: str, steps: int = 100) -> float:
    """Return the largest error of the first two moments of completions, in standard errors."""
    known = torch.tensor([1.5, -1.0])
    x = torch.cat([known, torch.tensor([99.0, -99.0])]).expand(N, 4).reshape(N, 1, 1, 4)
    mask = torch.tensor([True, True, False, False]).expand(N, 4).reshape(N, 1, 1, 4)
    full = run_chain(net, oracle.family().impute(imputer, steps), Known(known=x, mask=mask))["seen"].flatten(1).double()
    assert torch.equal(full[:, :2], known.double().expand(N, 2))
    mean, covariance = conditional(known.double())
    offset = full[:, 2:] - mean
    square = offset[:, :, None] * offset[:, None] - covariance
    return max(float((part.mean(0).abs() / (part.std(0) / math.sqrt(N))).max()) for part in (offset, square))


@torch.no_grad()
def test_both_imputers_are_exact_with_the_exact_posterior() -> None:
    assert bias(oracle.exact(), "gibbs") < 4
    assert bias(oracle.exact(), "metropolis") < 4


@torch.no_grad()
def test_only_the_correction_compensates_an_inexact_encoder() -> None:
    assert bias(oracle.sloppy(), "gibbs") > 10
    assert bias(oracle.sloppy(), "metropolis") < 4


# ---- known data ---------------------------------------------------------------------------------------------------


def test_nothing_changes_if_all_is_known_and_the_model_is_sampled_if_nothing_is() -> None:
    vae, net, _, log_p = strong("categorical")
    known = torch.randint(3, (N, *vae.spec.shape), generator=rng(), dtype=torch.uint8)
    for imputer in vae.imputers():
        chain = vae.impute(imputer, 3)
        all_or_nothing = Known(known=known, mask=torch.ones_like(known, dtype=torch.bool))
        assert torch.equal(generate(net, chain, N, seed=0, device=CPU, batch_size=N, known=all_or_nothing), known)
    free = Known(known=known, mask=torch.zeros_like(known, dtype=torch.bool))
    chain = vae.impute("metropolis", 150)
    x = chain.stepper.finish(run_chain(net, chain, free))
    expected = N * log_p.exp()
    counted = torch.bincount(x.flatten(1).long() @ torch.tensor([3, 1]), minlength=9)
    assert float(((counted - expected) ** 2 / expected).sum()) < 26.1  # 8 degrees of freedom


def test_samples_and_completions_share_a_batch() -> None:
    """One stepper advances both, and each gives the same result as separately."""
    vae, net, *_ = strong("categorical")
    plain, filling = vae.chain("draw"), vae.impute("metropolis", 4)
    known = torch.ones(2, *vae.spec.shape, dtype=torch.uint8)
    known_part = Known(known=known, mask=torch.tensor([[True, False], [False, False]]).view(2, *vae.spec.shape))
    stepper, one, two = filling.stepper, RowNoise.of(5, 2), RowNoise.of(6, 2)
    state, late = stepper.start(one, CPU, known_part), stepper.start(two, CPU)
    for tick, row in enumerate(filling.table, start=1):
        last = tick == filling.nfe
        rows = torch.cat([row.expand(2, -1), plain.table.expand(2, -1)]) if last else row.expand(2, -1)
        state = {key: torch.cat([state[key], late[key]]) for key in state} if last else state
        noise = RowNoise([5, 5, 6, 6], [0, 1, 0, 1], [tick, tick, 1, 1]) if last else one.at(tick)
        state = stepper.tick(net, state, rows, noise)
    both = stepper.finish(state)
    assert torch.equal(both[:2], generate(net, filling, 2, seed=5, device=CPU, known=known_part))
    assert torch.equal(both[2:], generate(net, plain, 2, seed=6, device=CPU))


def test_grey_levels_binarised_for_the_model_are_returned_unchanged() -> None:
    """With dynamic binarisation each row draws the bits of its known part once per chain."""
    config = VaeConfig(latent_dim=2, likelihood="bernoulli", binarise="dynamic", net={"name": "mlp", "hidden": [8]})
    vae = Vae(config, DataSpec(name="grey", kind="image", shape=(1, 4, 4), levels=17))
    net = oracle.awake(vae)
    known, mask = torch.full((300, 1, 4, 4), 8, dtype=torch.uint8), torch.zeros(300, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, :] = True
    chain = vae.impute("metropolis", 5)
    state = chain.stepper.start(RowNoise.of(0, 300), CPU, Known(known=known, mask=mask))
    bits = state["seen"][mask]
    assert set(bits.unique().tolist()) == {0.0, 1.0} and abs(bits.mean() - 0.5) < 4 * 0.5 / math.sqrt(len(bits))
    for tick, row in enumerate(chain.table, start=1):
        with torch.no_grad():
            state = chain.stepper.tick(net, state, row.expand(300, -1), RowNoise.of(0, 300).at(tick))
        assert torch.equal(state["seen"][mask], bits)
    x = chain.stepper.finish(state)
    assert (x[mask] == 8).all() and set(x[~mask].unique().tolist()) == {0, 16}
