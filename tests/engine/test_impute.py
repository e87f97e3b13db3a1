"""Completions: their spread and the likelihood of the truth. Scores: estimates with a correct standard error."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import instances
from gen_ray.engine.inference.impute import MARGINAL, MODEL_LIKELIHOOD, Completions, complete, masked_likelihood
from gen_ray.engine.inference.score import score
from gen_ray.errors import UserError
from tests.engine.tiny_models import CPU, images, model

IMAGE = DataSpec(name="image", kind="image", shape=(1, 1, 2), levels=5)
TEXT = DataSpec(name="text", kind="tokens", shape=(2,), levels=5, alphabet="abcde")


def completions(spec: DataSpec, samples: Tensor) -> Completions:
    """Return completions (1, k, *shape) of an instance whose first scalar is known."""
    mask = torch.zeros(1, 2, dtype=torch.bool)
    mask[0, 0] = True
    return Completions(samples=samples.view(1, -1, *spec.shape), mask=mask.view(1, *spec.shape), spec=spec, nfe=3)


@pytest.mark.parametrize("spec", [IMAGE, TEXT], ids=["image", "tokens"])
@pytest.mark.parametrize("k", [1, 4])
def test_the_marginal_is_a_distribution_over_the_missing_levels(spec: DataSpec, k: int) -> None:
    samples = torch.tensor([[0, 1], [0, 2], [0, 2], [0, 4]])[:k]
    made = completions(spec, samples)
    p = torch.stack([(-made.marginal_nll(torch.tensor([0, level])).nats).exp()[0] for level in range(5)])
    assert math.isclose(float(p.sum()), 1, abs_tol=1e-12) and (p > 0).all()
    assert made.marginal_nll(torch.tensor([0, 1])).kind == f"marginal-{k}"
    assert made.marginal_nll(torch.tensor([0, 1])).nfe == 3 * k


def test_the_marginal_of_tokens_is_their_smoothed_histogram_and_of_images_a_gaussian() -> None:
    samples = torch.tensor([[0, 1], [0, 2], [0, 2], [0, 4]])
    for level, count in enumerate([0, 1, 2, 0, 1]):
        nll = completions(TEXT, samples).marginal_nll(torch.tensor([0, level]))
        assert math.isclose(float(nll.nats[0]), -math.log((count + 0.2) / 5), rel_tol=1e-9)
    law = torch.distributions.Normal(2.25, math.sqrt(samples[:, 1].double().var() + 1 / 12))
    mass = float(law.cdf(torch.tensor(3.5)) - law.cdf(torch.tensor(2.5)))
    made = completions(IMAGE, samples)
    nll = made.marginal_nll(torch.tensor([0, 3]))
    assert math.isclose(float(nll.nats[0]), -math.log((4 * mass + 0.2) / 5), rel_tol=1e-5)
    assert math.isclose(float(made.bits_per_dim(nll)[0]), float(nll.nats[0]) / math.log(2))  # one scalar is missing


def test_a_causal_imputer_ignores_known_values_after_its_first_missing_one() -> None:
    mask = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 1]]).bool()
    for causal, expected in ((True, [2, 0, 4]), (False, [0, 0, 0])):
        made = Completions(samples=mask[:, None].long(), mask=mask, spec=TEXT, nfe=3, causal=causal)
        assert made.unseen_known().tolist() == expected


def test_uncertainty_is_a_spread_for_images_and_an_entropy_for_tokens() -> None:
    samples = torch.tensor([[0, 1], [0, 2], [0, 2], [0, 4]])
    spread = completions(IMAGE, samples).uncertainty().flatten()
    assert spread[0] == 0 and math.isclose(float(spread[1]), float(samples[:, 1].double().std()) / 4)
    entropy = completions(TEXT, samples).uncertainty().flatten()
    assert entropy[0] == 0 and math.isclose(float(entropy[1]), -(0.5 * math.log(0.5) + 0.5 * math.log(0.25)))
    for spec in (IMAGE, TEXT):
        assert (completions(spec, samples[:1]).uncertainty() == 0).all()


def test_completions_are_grouped_by_instance() -> None:
    now, x = model("vae"), images(3)
    mask = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    made = complete(now, x, mask, 4, steps=5, device=CPU)
    assert made.samples.shape == (3, 4, 1, 4, 4) and made.k == 4 and made.nfe == 5
    for i in range(3):
        assert (made.samples[i][:, mask[i]] == x[i][mask[i]]).all()
    assert torch.equal(complete(now, x, mask, 4, steps=5, device=CPU).samples, made.samples)
    assert not torch.equal(complete(now, x, mask, 4, steps=5, seed=1, device=CPU).samples, made.samples)
    mask[1] = True
    with pytest.raises(UserError, match="instance 1 has no missing value"):
        complete(now, x, mask, 4, device=CPU)


def test_the_model_likelihood_is_preferred_to_the_marginal_of_completions() -> None:
    truth, mask = images(2, seed=3), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[:, :, 2:] = False
    for family, kind, meaning in (("tokens", "elbo-ct-masked", MODEL_LIKELIHOOD), ("vae", "marginal-3", MARGINAL)):
        now = model(family)
        made = complete(now, images(2), mask, 3, steps=2, device=CPU)
        likelihood = masked_likelihood(now, made, truth, device=CPU)
        assert (likelihood.nll.kind, likelihood.meaning, likelihood.nll.nats.dtype) == (kind, meaning, torch.float64)
        other = torch.where(mask, 16 - truth, truth)
        assert torch.equal(masked_likelihood(now, made, other, device=CPU).nll.nats, likelihood.nll.nats), (
            "the truth at known places is ignored"
        )


def test_the_error_of_a_score_matches_its_repetitions() -> None:
    now, x = model("vae"), images(6)
    runs = [score(now, x, effort=1, repeats=16, seed=seed, device=CPU) for seed in range(40)]
    assert runs[0].kind == "elbo" and runs[0].nfe == 1 and runs[0].bits_per_dim.shape == (6,)
    spread = torch.stack([run.bits_per_dim for run in runs]).std(0)
    reported = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
    assert ((spread / reported - 1).abs() < 0.5).all()
    again = score(now, x, effort=1, repeats=16, seed=0, device=CPU)
    assert torch.equal(again.bits_per_dim, runs[0].bits_per_dim) and again.mean == float(again.bits_per_dim.mean())


@pytest.mark.parametrize("levels", [2, 17, 200, 256])
def test_images_are_read_back_unchanged(tmp_path: Path, levels: int) -> None:
    from gen_ray.engine.plots import grids

    for channels in (1, 3):
        spec = DataSpec(name="x", kind="image", shape=(channels, 16, 16), levels=levels)
        x = torch.randint(levels, (1, *spec.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        grids.write(tmp_path / "x.png", grids.rgb(x, levels=levels)[0].permute(1, 2, 0).numpy())
        assert torch.equal(instances.read(tmp_path / "x.png", spec), x)


def test_scaling_keeps_black_and_white_and_the_mean() -> None:
    own = DataSpec(name="own", kind="image", shape=(3, 28, 28), levels=256)
    spec = DataSpec(name="model", kind="image", shape=(1, 8, 8), levels=17)
    flat = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 28, 28)
    assert instances.convert(flat, own, spec, resize=True).flatten(1).unique(dim=1).flatten().tolist() == [0, 8, 16]
    x = torch.randint(256, (50, 3, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = instances.convert(x, own, spec, resize=True)
    assert small.dtype == torch.uint8 and abs(small.float().mean() / 16 - 0.5) < 0.01
    with pytest.raises(instances.InstanceError, match="`resize`") as error:
        instances.convert(x, own, spec, resize=False)
    assert (error.value.field, error.value.scalable) == ("own", True)
    with pytest.raises(UserError, match="holds tokens"):
        instances.convert(x, TEXT, spec, resize=True)


def test_grey_values_of_levels_are_exact_and_others_are_reported() -> None:
    own = DataSpec(name="own", kind="image", shape=(1, 1, 17), levels=256)
    spec = own.model_copy(update={"name": "model", "levels": 17})
    exact = (torch.arange(17) * 255 / 16).round().view(1, 1, 1, 17).to(torch.uint8)
    assert instances.convert(exact, own, spec, resize=False).flatten().tolist() == [*range(17)]
    assert not instances.rounded(exact, own, spec) and "256 levels are rounded" in instances.rounded(
        exact // 2, own, spec
    )
    few = own.model_copy(update={"levels": 100})
    with pytest.raises(UserError, match="`resize`"):
        instances.convert(exact // 3, few, spec, resize=False)


def test_text_of_another_alphabet_is_encoded_in_the_models() -> None:
    own = DataSpec(name="own", kind="tokens", shape=(3,), levels=3, alphabet="bde")
    spec = DataSpec(name="model", kind="tokens", shape=(3,), levels=5, alphabet="abcde")
    x = torch.tensor([[0, 1, 2], [2, 2, 0]], dtype=torch.uint8)
    assert instances.convert(x, own, spec, resize=False).tolist() == [[1, 3, 4], [4, 4, 1]]
    with pytest.raises(UserError, match="'ac', which does not occur in own"):
        instances.convert(torch.tensor([[0, 1, 2]]), spec, own, resize=False)
