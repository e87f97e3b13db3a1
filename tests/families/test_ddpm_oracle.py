"""DDPM with the exact denoiser of known data: the bound tends to the entropy, and samples follow the data."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.generate import generate
from gen_ray.families.ddpm import Ddpm, DdpmConfig
from gen_ray.maths import gaussian
from gen_ray.maths.gaussian import posterior
from gen_ray.maths.levels import scaled
from gen_ray.maths.likelihoods import discretised_gaussian_log_prob
from gen_ray.maths.noise import RowNoise
from tests.families.cases import rng
from tests.oracles import GaussianMixture, OracleNet

CPU = torch.device("cpu")
PIXEL = DataSpec(name="pixel", kind="image", shape=(1, 1, 1), levels=256)
PAIR = DataSpec(name="pair", kind="image", shape=(1, 1, 2), levels=256)
GAUSSIAN = GaussianMixture.line([1.0], [0.1], [0.2])
LEVELS = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
LOG_P = discretised_gaussian_log_prob(
    LEVELS, torch.tensor(0.1).double(), torch.tensor(0.2).double().log(), 256
).flatten()
ENTROPY = float(-(LOG_P.exp() * LOG_P).sum())


def model(spec: DataSpec = PIXEL, **settings: Any) -> Ddpm:
    return Ddpm(DdpmConfig(**settings), spec)


class VarianceOutputNet(nn.Module):
    """A denoiser that also outputs a constant for the variance."""

    def __init__(self, net: nn.Module, raw: float) -> None:
        super().__init__()
        self.net, self.raw = net, raw

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out = self.net(x, t)
        return torch.cat([out, torch.full_like(out, self.raw)], dim=1)


def oracle(family: Ddpm, mixture: GaussianMixture = GAUSSIAN) -> OracleNet:
    return OracleNet(mixture, family.schedule, family.config.predict)


# ---- likelihood -----------------------------------------------------------------------------------------------


def expected_bound(family: Ddpm, net: nn.Module, repeats: int = 8) -> tuple[float, float]:
    """Return E_p(x)[nll] with every k evaluated, and its standard error; levels are summed, not drawn."""
    x = LEVELS.repeat(repeats, 1, 1, 1)
    nats = family.nll(net, x, rng(), effort=family.config.steps).nats.double().view(repeats, 256)
    estimates = nats @ LOG_P.exp()
    return float(estimates.mean()), float(estimates.std() / math.sqrt(repeats))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
def test_the_bound_falls_to_the_entropy_of_the_data(schedule: str) -> None:
    bounds = []
    for T in (25, 100, 400):
        family = model(schedule=schedule, steps=T, variance="large")
        bounds.append(expected_bound(family, oracle(family)))
    for (few, few_error), (many, many_error) in itertools.pairwise(bounds):
        assert many < few + 3 * (few_error + many_error)
    assert all(bound > ENTROPY - 3 * error for bound, error in bounds)
    assert bounds[0][0] - ENTROPY > 3 * (bounds[-1][0] - ENTROPY)
    assert bounds[-1][0] - ENTROPY < 0.05, (bounds, ENTROPY)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
def test_the_steps_of_the_bound_follow_their_closed_form(schedule: str, variance: str) -> None:
    """E[L_{k−1}] = ½(ln(s²/beta_tilde) + (beta_tilde + c²·Var[x_0|x_k])/s² − 1), c the weight of x_0 in the mean.

    With ``small`` the sum does not tend to 0 with T: near data the true variance is beta, twice beta_tilde at k = 2.
    """
    family, n = model(schedule=schedule, steps=60, variance=variance), 4000
    d, k = family.schedule, torch.arange(2, 61)
    tilde, c = d.posterior_variance[k], posterior(d, k).coef_x0
    of_x_0 = 0.2**2 * d.sigma[k] ** 2 / (d.alpha_bar[k] * 0.2**2 + d.sigma[k] ** 2)
    s2 = tilde if variance == "small" else d.beta[k]
    expected = float(((s2 / tilde).log() + (tilde + c**2 * of_x_0) / s2 - 1).sum() / 2)
    x = LEVELS[torch.multinomial(LOG_P.exp(), n, replacement=True, generator=rng())]
    steps = family.nll(oracle(family), x, rng(1), effort=60).parts["steps"].double()
    assert abs(float(steps.mean()) - expected) < 4 * float(steps.std()) / math.sqrt(n) + 0.005
    assert expected > 0.2 or variance == "large"


@pytest.mark.parametrize("predict", ["eps", "x_0", "v"])
def test_the_parametrisation_does_not_change_the_bound(predict: str) -> None:
    expected, other = (model(steps=50, predict=how) for how in ("eps", predict))
    bounds = [f.nll(oracle(f), LEVELS, rng(), effort=50).nats for f in (expected, other)]
    torch.testing.assert_close(*bounds, rtol=1e-3, atol=2e-3)


def written_out(family: Ddpm, net: nn.Module, x: Tensor, draws: torch.Generator) -> Tensor:
    """Return L_T + Σ L_{k−1} + L_0 in float64 from the betas (Ho et al. eq. 5-7 and 13), with the draws of nll."""
    d, T = family.schedule, family.config.steps
    x_0 = x.double() / 127.5 - 1
    betas = 1 - d.alpha_bar[1:] / d.alpha_bar[:-1]
    bar = torch.cumprod(1 - betas, 0)
    total = kl_divergence(Normal(bar[-1].sqrt() * x_0, (1 - bar[-1]).sqrt()), Normal(0.0, 1.0))
    for k in range(1, T + 1):
        if k > 1:
            torch.rand(len(x), generator=draws, dtype=torch.float64)  # the draw of k, of which only one is left
        eps = torch.randn(x_0.shape, generator=draws).double()
        now, before = bar[k - 1], (bar[k - 2] if k > 1 else torch.tensor(1.0))
        x_k = now.sqrt() * x_0 + (1 - now).sqrt() * eps
        predicted = net(x_k, torch.full((len(x),), k / T))
        x_0_hat = ((x_k - (1 - now).sqrt() * predicted) / now.sqrt()).clamp(-1, 1)
        on_x_0 = before.sqrt() * betas[k - 1] / (1 - now)
        on_x_k = (1 - betas[k - 1]).sqrt() * (1 - before) / (1 - now)
        tilde = [(1 - bar[j - 1]) / (1 - bar[j]) * betas[j] for j in range(1, T)]  # of k = 2 … T
        variance = {"small": tilde[max(k, 2) - 2], "large": betas[k - 1]}[family.config.variance]
        mean = on_x_0 * x_0_hat + on_x_k * x_k
        if k == 1:
            total -= discretised_gaussian_log_prob(x, mean, variance.log() / 2, 256)
        else:
            p = Normal(mean, variance.sqrt())
            total = total + kl_divergence(Normal(on_x_0 * x_0 + on_x_k * x_k, tilde[k - 2].sqrt()), p)
    return total.flatten()


@pytest.mark.parametrize("variance", ["small", "large"])
def test_at_full_effort_the_bound_is_the_sum_of_the_paper(variance: str) -> None:
    family = model(steps=30, variance=variance)
    net, x = oracle(family), LEVELS[::5]
    nll = family.nll(net, x, rng(3), effort=30)
    torch.testing.assert_close(nll.nats.double(), written_out(family, net, x, rng(3)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(family.nll(net, x, rng(3), effort=10**6).nats, nll.nats)
    assert nll.nfe == 30


@pytest.mark.parametrize("effort", [1, 2, 3, 7, 24, 25])
def test_the_estimate_is_unbiased_at_any_effort(effort: int) -> None:
    family, n = model(schedule="linear", steps=25), 6000
    net, x = oracle(family), torch.full((6000, 1, 1, 1), 180, dtype=torch.uint8)
    few, all_of_them = (family.nll(net, x, rng(seed), effort=e).nats.double() for seed, e in ((1, effort), (2, 25)))
    error = math.hypot(few.std(), all_of_them.std()) / math.sqrt(n)
    assert abs(few.mean() - all_of_them.mean()) < 4 * error
    if effort == 24:
        one_draw = family.nll(net, x, rng(1), effort=2).nats.double()
        assert few.std() < 0.5 * one_draw.std()  # stratification removes the variance due to k


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
def test_the_prior_term_is_the_divergence_from_noise(schedule: str) -> None:
    family = model(PAIR, schedule=schedule, steps=40)
    x_0 = torch.tensor([[-1.0, 1.0], [0.0, 0.3]]).view(2, 1, 1, 2)
    q = Normal(family.schedule.alpha[-1] * x_0.double(), family.schedule.sigma[-1])
    expected = kl_divergence(q, Normal(torch.zeros(()).double(), 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(family.forward.bound.prior_nats(x_0).double(), expected, rtol=1e-3, atol=1e-6)


def test_the_prior_term_is_on_the_device_of_the_data() -> None:
    assert model().forward.bound.prior_nats(torch.zeros(2, 1, 1, 1, device="meta")).device.type == "meta"


# ---- the learned variance -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "same"), [(-1.0, "small"), (1.0, "large")])
def test_a_learned_variance_has_the_ends_small_and_large(raw: float, same: str) -> None:
    fixed, learned = model(steps=20, variance=same), model(steps=20, variance="learned")
    net, other = oracle(fixed), VarianceOutputNet(oracle(fixed), raw)
    torch.testing.assert_close(
        learned.nll(other, LEVELS, rng(), effort=20).nats, fixed.nll(net, LEVELS, rng(), effort=20).nats
    )
    for sampler in ("ancestral", "ddim:eta=0.7", "dpmpp_2m"):
        both = [generate(n, f.chain(sampler), 50, seed=1, device=CPU) for n, f in ((other, learned), (net, fixed))]
        assert (both[0].int() - both[1].int()).abs().max() <= 1


def test_a_learned_variance_is_between_them_in_log_space() -> None:
    small, large, learned = (model(steps=20, variance=v) for v in ("small", "large", "learned"))
    k = torch.arange(1, 21)
    least, most, half = (
        family.forward.bound.log_variance(family.forward.bound.at(k, 4), v)
        for family, v in ((small, None), (large, None), (learned, torch.zeros(20, 1, 1, 1)))
    )
    torch.testing.assert_close(half, (least + most) / 2)
    torch.testing.assert_close(most.flatten(), learned.schedule.beta[1:].log().float())


class Constant(nn.Module):
    """A net with two constant outputs: a prediction and a variance."""

    def __init__(self) -> None:
        super().__init__()
        self.prediction, self.raw = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.prediction.expand_as(x), self.raw.expand_as(x)], dim=1)


@pytest.mark.parametrize(("weight", "used"), [(None, 1e-3), (0.25, 0.25)])
@pytest.mark.parametrize("predict", ["eps", "x_0", "v"])
def test_in_the_hybrid_loss_the_bound_trains_only_the_variance(predict: str, weight: float | None, used: float) -> None:
    family, net = model(steps=20, variance="learned", predict=predict, vlb_weight=weight), Constant()
    terms = family.loss(net, LEVELS, rng(), step=0)
    torch.testing.assert_close(terms.total, terms.parts["simple"] + used * terms.parts["vlb_nats"])

    def gradient(part: str) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            terms.parts[part].sum(), (net.prediction, net.raw), retain_graph=True, allow_unused=True
        )

    by_bound, by_simple = gradient("vlb_nats"), gradient("simple")
    assert (by_bound[0] is None or by_bound[0] == 0) and by_bound[1] != 0
    assert by_simple[0] != 0 and (by_simple[1] is None or by_simple[1] == 0)


def test_the_bound_trains_both_outputs() -> None:
    net = Constant()
    family = model(steps=20, variance="learned", loss="vlb")
    family.loss(net, LEVELS, rng(), step=0).total.sum().backward()
    assert net.prediction.grad != 0 and net.raw.grad != 0


class Remembering(nn.Module):
    """A new net, which predicts zero and keeps its output and its times."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.t, self.answer = t, torch.zeros_like(x).requires_grad_()
        return self.answer


@pytest.mark.parametrize("most", [0.5, 5.0])
@pytest.mark.parametrize("predict", ["eps", "x_0", "v"])
def test_min_snr_weights_the_error_of_x_0_for_any_parametrisation(predict: str, most: float) -> None:
    family, weights_seen = model(steps=20, predict=predict, min_snr=most, clip=False), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        weights_seen.append((x, (t * 20).round().long()))
        return 0.3 * x

    terms = family.loss(net, LEVELS, rng(), step=0)
    [(x_t, k)] = weights_seen
    alpha, sigma = (column[k].float().view(-1, 1, 1, 1) for column in (family.schedule.alpha, family.schedule.sigma))
    x_0_hat = gaussian.PREDICTIONS[predict].to_x_0(0.3 * x_t, x_t, alpha, sigma)
    snr = (alpha / sigma).square().flatten()
    expected = snr.clamp(max=most) * (x_0_hat - scaled(LEVELS, family.spec.levels)).square().flatten(1).sum(1)
    torch.testing.assert_close(terms.total, expected, rtol=1e-4, atol=1e-4)
    assert (snr > most).any() and (snr < most).any()


@pytest.mark.parametrize("predict", ["eps", "x_0", "v"])
@pytest.mark.parametrize("loss", ["simple", "vlb"])
def test_every_step_trains_a_new_net(loss: str, predict: str) -> None:
    """Also near noise, where the implied x̂_0 of a new net is far outside the range of the data."""
    family, net = model(steps=100, loss=loss, predict=predict), Remembering()
    family.loss(net, LEVELS.repeat(4, 1, 1, 1), rng(), step=0).total.sum().backward()
    assert (net.answer.grad != 0).all()


# ---- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predict", ["eps", "x_0", "v"])
def test_the_simple_loss_of_the_exact_net_is_the_posterior_variance(predict: str) -> None:
    """E‖target − E[target|x_k]‖² in closed form: Var[x_0|x_k] scaled as the target is."""
    family, n = model(steps=50, predict=predict), 40_000
    u = torch.multinomial(LOG_P.exp(), n, replacement=True, generator=rng())
    loss = family.loss(oracle(family), LEVELS[u], rng(1), step=0).total.double()
    alpha, sigma = family.schedule.alpha[1:], family.schedule.sigma[1:]
    posterior = 0.2**2 * sigma**2 / (alpha**2 * 0.2**2 + sigma**2)
    # eps = (x_k − alpha·x_0)/sigma, v = alpha·eps − sigma·x_0 = (alpha·x_k − x_0)/sigma at alpha² + sigma² = 1
    scale = {"eps": alpha / sigma, "x_0": torch.ones_like(alpha), "v": 1 / sigma}[predict]
    expected = (posterior * scale**2).mean()
    assert abs(loss.mean() - expected) < 4 * loss.std() / math.sqrt(n) + 0.002 * expected


def test_the_steps_of_a_batch_are_stratified() -> None:
    """Each of B equal parts of {1 … T} gives one draw, and every row gets every k equally often."""
    family, net, counts = model(schedule="linear", steps=50), Remembering(), torch.zeros(20, 51)
    for seed in range(2000):
        family.loss(net, LEVELS[:20], rng(seed), step=0)
        k = (net.t * 50).round().long()
        assert (k.sort().values - 1 - 2.5 * torch.arange(20)).abs().max() < 2.5
        counts[torch.arange(20), k] += 1
    assert (counts[:, 0] == 0).all()
    chi_square = ((counts[:, 1:] - 40) ** 2 / 40).sum(1)
    assert (chi_square < 94.0).all()  # 49 degrees of freedom, p = 0.0001


def test_the_training_bound_equals_the_likelihood() -> None:
    """E[loss] + L_T = E[nll] without clipping."""
    family, n = model(steps=25, loss="vlb", clip=False), 40_000
    net = oracle(family)
    x = LEVELS[torch.multinomial(LOG_P.exp(), n, replacement=True, generator=rng())]
    loss = family.loss(net, x, rng(1), step=0).total + family.forward.bound.prior_nats(x.float() / 127.5 - 1)
    nll = family.nll(net, x, rng(2), effort=25).nats
    error = math.hypot(loss.std(), nll.std()) / math.sqrt(n)
    assert abs(float(loss.double().mean() - nll.double().mean())) < 4 * error


# ---- sampling -----------------------------------------------------------------------------------------------------

MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]).double(),
    torch.tensor([[-0.5, 0.2], [0.4, -0.3]]).double(),
    torch.tensor([[0.10, 0.15], [0.12, 0.08]]).double(),
)


@pytest.mark.parametrize("predict", ["eps", "v"])
@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ancestral", None), ("ancestral", 60), ("ddim", 60), ("ddim:eta=1", 80), ("dpmpp_2m", 20), ("dpmpp_2m", None)],
)
def test_the_samples_of_the_exact_net_follow_the_data(sampler: str, steps: int | None, predict: str) -> None:
    family, n = model(PAIR, steps=120, predict=predict), 1500
    samples = generate(oracle(family, MIXTURE), family.chain(sampler, steps), n, seed=3, device=CPU, batch_size=n)
    x = samples.double().flatten(1) / 127.5 - 1
    error = (MIXTURE.variance / n).sqrt()
    assert ((x.mean(0) - MIXTURE.mean).abs() < 4 * error + 0.02).all()
    torch.testing.assert_close(x.var(0), MIXTURE.variance, rtol=0.1, atol=0)
    assert abs(float((x[:, 0] < 0).double().mean()) - 0.3) < 4 * math.sqrt(0.21 / n) + 0.01
    assert float(MIXTURE.log_prob(x).mean()) > float(MIXTURE.log_prob(MIXTURE.sample(n, rng())).mean()) - 0.15


def test_clipping_keeps_the_prediction_in_range_and_can_be_disabled() -> None:
    clipped, free = model(steps=10), model(steps=10, clip=False)
    x_t, t, one = torch.full((1, 1, 1, 1), 3.0), torch.ones(1), torch.full((1, 1, 1, 1), 0.5)
    for family, value in ((clipped, 1.0), (free, 6.0)):
        x_0, v = family.forward.denoise(lambda x, t: torch.zeros_like(x), x_t, t, one, one)
        assert x_0.item() == value and v is None


@pytest.mark.parametrize("levels", [2, 17, 256, 257, 4096])
def test_the_stepper_ends_at_the_nearest_level(levels: int) -> None:
    stepper = model(replace_levels(levels), steps=5).chain("ddim", 1).stepper
    u = torch.arange(levels).view(-1, 1, 1, 1)
    jitter = 0.4 * torch.rand(u.shape, generator=rng()) * (2 / (levels - 1))
    for x in (2 * u / (levels - 1) - 1 + jitter, 2 * u / (levels - 1) - 1 - jitter):
        assert torch.equal(stepper.finish({"x": x}).long(), u)
    out = stepper.finish({"x": torch.tensor([-5.0, 5.0])})
    assert out.tolist() == [0, levels - 1] and out.dtype == (torch.uint8 if levels <= 256 else torch.int32)


def replace_levels(levels: int) -> DataSpec:
    return PIXEL.model_copy(update={"levels": levels})


def test_a_row_without_noise_draws_nothing() -> None:
    """ddim with eta = 0 depends only on its start and draws no noise."""

    class Forbidden(RowNoise):
        def normal(self, *args: Any, **kwargs: Any) -> Tensor:
            raise AssertionError("a deterministic sampler draws nothing")

    family = model(PAIR, steps=10)
    chain, start = family.chain("ddim", 4), RowNoise.of(0, 3)
    state = chain.stepper.start(start, CPU)
    for row in chain.table:
        state = chain.stepper.tick(
            oracle(family, MIXTURE), state, row.expand(3, -1), Forbidden(start.seeds, start.rows, start.ticks)
        )
    assert torch.equal(chain.stepper.finish(state), generate(oracle(family, MIXTURE), chain, 3, seed=0, device=CPU))
    assert replace(chain) == chain
