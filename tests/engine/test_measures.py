"""Distances, features, likelihood and evaluation, compared with known values."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import evaluate as measures
from gen_ray.engine.evaluation import features, frechet
from gen_ray.engine.evaluation.evaluate import ReferenceData, distances, evaluate, likelihood, sample
from gen_ray.engine.evaluation.frechet import Moments, distance, manifold_coverage
from gen_ray.engine.evaluation.provenance import planned_provenance
from gen_ray.engine.evaluation.quality_metrics import quality_metric
from gen_ray.engine.evaluation.requirements import unmeasurable_metrics
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.score import bits_per_dim, nll_batches
from gen_ray.engine.inference.texts import page
from gen_ray.errors import UserError
from gen_ray.experiment import parse
from gen_ray.storage import manifest
from tests.engine.tiny_models import CPU, SPEC, experiment, images, model


def cloud(n: int, dims: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- Fréchet distance ---------------------------------------------------------------------------------------------


def test_the_distance_of_gaussians_with_common_axes() -> None:
    """‖m_a − m_b‖² + Σ (s_a − s_b)² where the covariances commute."""
    axes = torch.linalg.qr(cloud(5, 5)).Q
    s_a, s_b = torch.tensor([1.0, 2, 0, 0.5, 3]).double(), torch.tensor([2.0, 2, 1, 0, 1]).double()
    m_a, m_b = cloud(2, 5, seed=1)
    a, b = (Moments(m, axes @ torch.diag(s**2) @ axes.T) for m, s in ((m_a, s_a), (m_b, s_b)))
    expected = float((m_a - m_b).square().sum() + (s_a - s_b).square().sum())
    assert distance(a, b) == pytest.approx(expected, rel=1e-7)  # the root of a rounding error is 1e-8
    assert distance(b, a) == pytest.approx(expected, rel=1e-7)


def test_the_distance_of_any_two_gaussians_equals_that_of_scipy() -> None:
    a, b = (Moments.of(cloud(50, 6, seed) @ cloud(6, 6, seed + 5)) for seed in (0, 1))
    root = np.real(sqrtm(a.covariance.numpy() @ b.covariance.numpy()))
    expected = float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()) - 2 * np.trace(root)
    assert distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_the_distance_to_itself_is_zero_and_rotation_does_not_matter() -> None:
    x, y = cloud(300, 8), 0.5 * cloud(200, 8, seed=1) + 1
    axes = torch.linalg.qr(cloud(8, 8, seed=2)).Q
    d = distance(Moments.of(x), Moments.of(y))
    assert distance(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-9)
    assert distance(Moments.of(x @ axes + 7), Moments.of(y @ axes + 7)) == pytest.approx(d, rel=1e-9)
    assert distance(Moments.of(3 * x), Moments.of(3 * y)) == pytest.approx(9 * d, rel=1e-9)
    flat = Moments.of(x * torch.tensor([1.0] + [0.0] * 7))  # rank one
    assert distance(flat, flat) == pytest.approx(0, abs=1e-9)


def test_moments_equal_those_of_numpy() -> None:
    x = cloud(30, 4).float()
    np.testing.assert_allclose(Moments.of(x).covariance, np.cov(x.numpy().astype(np.float64), rowvar=False), rtol=1e-6)
    np.testing.assert_allclose(Moments.of(x).mean, x.numpy().astype(np.float64).mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match="two rows"):
        Moments.of(x[:1])


# ---- precision and recall -----------------------------------------------------------------------------------------


def test_coverage_of_itself_is_one_and_of_distant_points_zero() -> None:
    x = cloud(200, 4).float()
    for k in (1, 5, 500):
        assert manifold_coverage(x, x, neighbours=k) == 1
    assert manifold_coverage(x, x + 100, neighbours=5) == 0


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_recall_counts_the_modes_that_are_covered(offset: float) -> None:
    """Of two modes only one is covered: recall falls, precision does not."""
    left, right = cloud(150, 3).float() + offset, cloud(50, 3, seed=1).float() + offset + 50
    real, fake = torch.cat([left, right]), left[:100] + 0.001
    assert manifold_coverage(real, fake, neighbours=3) == pytest.approx(0.75, abs=0.05)
    assert manifold_coverage(fake, real, neighbours=3) == 1


def test_coverage_equals_a_value_computed_by_hand() -> None:
    """On a line the points 0, 1, 3 have the distances 1, 1, 2 to their nearest neighbours."""
    by = torch.tensor([[0.0], [1.0], [3.0]])
    for value, inside in ((-1.0, 1), (-1.1, 0), (2.0, 1), (5.0, 1), (5.1, 0)):
        assert manifold_coverage(torch.tensor([[value]]), by, neighbours=1) == inside


def test_coverage_does_not_change_under_translation() -> None:
    """The sums with 1024 are exact; a distance by a matrix product would be lost in the rounding of 1024²."""
    x, y = (torch.round(cloud(200, 8, seed).float() * 1024) / 1024 for seed in (0, 1))
    assert 0 < manifold_coverage(x, y, neighbours=1) == manifold_coverage(x + 1024, y + 1024, neighbours=1) < 1


def test_duplicates_cover_one_another() -> None:
    x = cloud(40, 16).float().repeat(6, 1) + 30  # radii of 0: in spite of rounding a point must find its duplicate
    assert manifold_coverage(x, x, neighbours=3) == 1


# ---- the extractor ------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Return images and labels of two classes, dark and bright; the extractor's training is shortened."""
    monkeypatch.setattr(features, "MAX_STEPS", 15)
    labels = torch.arange(64) % 2
    return (images(64) // 2 + 8 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels


def test_the_extractor_is_a_function_of_the_data_and_learns(labelled: tuple[Tensor, Tensor]) -> None:
    state = torch.get_rng_state()
    one = features.train(SPEC, *labelled)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    two = features.train(SPEC, *labelled)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert features.accuracy(one, SPEC, *labelled) > 0.95


def test_the_extractor_is_trained_once_and_refused_when_damaged(
    labelled: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = features.load_or_train(tmp_path / "e", SPEC, lambda split: labelled)
    monkeypatch.setattr(features, "train", None)  # would fail if it were called
    second = features.load_or_train(tmp_path / "e", SPEC, lambda split: labelled)
    x = images(700, seed=3)
    assert torch.equal(first.features(x), second.features(x)) and first.features(x).shape == (700, 64)
    torch.testing.assert_close(first.features(x)[600:605], first.features(x[600:605]), rtol=1e-4, atol=1e-4)
    digest = manifest.read(tmp_path / "e")["weights.safetensors"]
    assert first.name == second.name == f"classifier-{digest[:12]}" and first.accuracy == second.accuracy > 0.95
    file = tmp_path / "e" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors.*delete its folder"):
        features.load_or_train(tmp_path / "e", SPEC, lambda split: labelled)


# ---- likelihood ---------------------------------------------------------------------------------------------------


def uniform(levels: int) -> Model:
    """Return a VAE whose decoder ignores z and gives every level the same probability; its encoder is the prior."""
    spec = DataSpec(name="uniform", kind="image", shape=(1, 2, 3), levels=levels)
    exp = parse({"name": "uniform", "family": {"name": "vae", "likelihood": "categorical", "latent_dim": 2}})
    family = exp.model(spec)
    net = family.build_net().eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.zero_()
    return Model(experiment=exp, family=family, net=net, meta={})


def reference(
    spec: DataSpec, rows: int = 130, against: str = "train", extractor: Any = None, test_rows: int | None = None
) -> ReferenceData:
    train, test = (
        torch.randint(
            spec.levels, (rows, *spec.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
        )
        for seed in (0, 1)
    )
    return ReferenceData(
        train=train, test=test[:test_rows], rows_seed=0, fingerprint="abc", reference_split=against, extractor=extractor
    )


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("effort", [1, 4])
def test_a_uniform_model_costs_the_logarithm_of_the_levels(levels: int, effort: int) -> None:
    now = uniform(levels)
    settings = now.experiment.evaluation.model_copy(update={"effort": effort, "likelihood_rows": 120})
    now = replace(now, experiment=now.experiment.model_copy(update={"evaluation": settings}))
    metrics, how = likelihood(now, reference(now.spec), device=CPU)
    assert metrics["eval/bits_per_dim"] == pytest.approx(math.log2(levels), rel=1e-6)
    assert metrics["eval/bits_per_dim_standard_error"] == pytest.approx(0, abs=1e-6)
    assert metrics["eval/bits_per_dim_nfe"] == effort
    kind = "elbo" if effort == 1 else "iwae-4"
    assert how["eval/bits_per_dim"].items() >= {"kind": kind, "rows": 120, "data": "abc", "split": "test"}.items()
    if effort == 1:
        parts = {name: metrics[f"eval/bits_per_dim_{name}"] for name in ("reconstruction", "kl")}
        assert parts["kl"] == pytest.approx(0, abs=1e-7) and parts["reconstruction"] == pytest.approx(math.log2(levels))


def test_a_fair_coin_costs_one_bit() -> None:
    assert float(bits_per_dim(torch.tensor([6 * math.log(2)]), 6)) == pytest.approx(1)


@pytest.mark.parametrize("family", ["vae", "ddpm"])
def test_the_likelihood_is_the_mean_over_rows_with_its_standard_error(family: str) -> None:
    now, data = model(family), reference(SPEC)
    metrics, _ = likelihood(now, data, device=CPU)
    again, _ = likelihood(now, data, device=CPU)
    assert metrics == again
    nats = torch.cat(
        [nll.nats for nll in nll_batches(now, data.test[:30], measures.SEED, effort=3, device=CPU)]
    ).double()
    bits = (nats / 16 / math.log(2)).numpy()
    assert metrics["eval/bits_per_dim"] == pytest.approx(bits.mean())
    assert metrics["eval/bits_per_dim_standard_error"] == pytest.approx(bits.std(ddof=1) / math.sqrt(30))
    assert nats.std() > 0


# ---- evaluation ---------------------------------------------------------------------------------------------------


def test_samples_equal_those_of_generate() -> None:
    now = model("ddpm")
    x, seconds = sample(now, 5, device=CPU)
    chain = now.family.chain("ddim")
    assert torch.equal(x, generate(now.net, chain, 5, seed=0, device=CPU)) and 0 < seconds < 5


class Raw:
    """An extractor whose features are the pixels."""

    name, accuracy = "pixels", 0.5

    def features(self, x: Tensor) -> Tensor:
        return x.float().flatten(1)[:, :6]


@pytest.mark.parametrize("against", ["train", "test"])
def test_samples_that_equal_the_data_have_distance_zero(against: str) -> None:
    data = reference(SPEC, against=against, extractor=Raw())
    metrics, how = distances(model(), data.real, data, data.extractor)
    assert metrics["eval/frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert metrics["eval/frechet_floor"] > 0.1
    assert metrics["eval/precision"] == metrics["eval/recall"] == 1
    expected = {"reference": against, "extractor": "pixels", "samples": 130, "reference_rows": 130, "neighbours": 5}
    assert all(provenance.items() >= expected.items() for provenance in how.values())
    assert torch.equal(data.real, {"train": data.train, "test": data.test}[against])
    assert torch.equal(data.held_out, {"train": data.test, "test": data.train}[against])
    moments = [Moments.of(Raw().features(x)) for x in (data.held_out, data.real)]
    assert metrics["eval/frechet_floor"] == pytest.approx(frechet.distance(*moments))


@pytest.mark.parametrize("family", ["vae", "ddpm"])
def test_an_evaluation_is_repeatable_and_has_a_provenance_for_each_number(family: str) -> None:
    now, data = model(family), reference(SPEC, extractor=Raw())
    reports = [evaluate(now, data, device=CPU) for _ in range(2)]
    metrics = [{k: v for k, v in r.metrics.items() if "seconds" not in k} for r in reports]
    assert metrics[0] == metrics[1] and all(math.isfinite(v) for v in metrics[0].values())
    assert set(reports[0].provenance) == {
        "eval/bits_per_dim",
        "eval/frechet_distance",
        "eval/precision",
        "eval/recall",
    }
    assert set(reports[0].provenance) <= set(reports[0].metrics)
    assert reports[0].pictures["samples"].shape[2] == 3 and not reports[0].texts
    without = evaluate(now, replace(data, extractor=None), device=CPU)
    assert "eval/frechet_distance" not in without.metrics and set(without.provenance) == {"eval/bits_per_dim"}


def test_the_evaluation_of_a_text_model_shows_text_and_no_picture() -> None:
    spec = DataSpec(name="play", kind="tokens", shape=(6,), levels=4, alphabet="abcd")
    exp = experiment("tokens")
    family = exp.model(spec)
    now = Model(experiment=exp, family=family, net=family.build_net().eval(), meta={})
    x = torch.randint(4, (30, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ReferenceData(train=x, test=x, rows_seed=0, fingerprint="f" * 12, reference_split="train", extractor=None)
    report = evaluate(now, data, device=CPU)
    drawn, _ = sample(now, exp.evaluation.samples, device=CPU)
    assert report.texts == {"samples": page(drawn, spec)} and not report.pictures


@pytest.mark.parametrize(("samples", "test_rows"), [(100, 30), (100, 101), (40, 130)])
def test_floor_and_distance_are_computed_from_equally_many_rows(samples: int, test_rows: int) -> None:
    """Samples that are as many rows of real data as are held out have the floor as their distance."""
    data = reference(SPEC, extractor=Raw(), test_rows=test_rows)
    rows = min(samples, test_rows)
    drawn = torch.cat([data.test[:rows], data.train[: samples - rows]])
    metrics, _ = distances(model(), drawn, data, data.extractor)
    assert metrics["eval/frechet_floor_rows"] == rows
    parts = [part for part in drawn.split(rows) if len(part) == rows]
    real = Moments.of(Raw().features(data.real))
    found = [distance(Moments.of(Raw().features(part)), real) for part in parts]
    assert metrics["eval/frechet_distance_at_floor_rows"] == pytest.approx(sum(found) / len(found))
    assert metrics["eval/frechet_floor"] == pytest.approx(found[0])
    if rows == samples:
        assert metrics["eval/frechet_distance_at_floor_rows"] == pytest.approx(metrics["eval/frechet_distance"])


SINGLE = SPEC.model_copy(update={"classes": ("a",)})
UNLABELLED = SPEC.model_copy(update={"classes": ()})


@pytest.mark.parametrize(
    ("spec", "rows", "against", "line"),
    [
        (SPEC, 2, "train", ""),
        (SPEC, 1, "train", "the test split has 1 row"),
        (SPEC, 1, "test", "the test split has 1 row: no Fréchet distance"),
        (SINGLE, 9, "train", "cannot be trained on labels of a single class: no Fréchet"),
        (UNLABELLED, 9, "train", "an extractor needs labelled images: no Fréchet"),
        (UNLABELLED, 1, "train", "bits/dim without standard error"),
    ],
)
def test_a_measure_that_is_impossible_is_known_before_and_reported_after(
    spec: DataSpec, rows: int, against: str, line: str
) -> None:
    judge = Raw() if len(spec.classes) > 1 else None
    data = reference(spec, against=against, extractor=judge, test_rows=rows)
    missing = unmeasurable_metrics(spec, {"train": 130, "test": rows}, against)
    now = model()
    now = replace(now, family=now.experiment.model(spec))
    report = evaluate(now, data, device=CPU)
    assert list(report.unmeasured) == list(dict.fromkeys(missing.values()))
    assert line in " | ".join(report.unmeasured) and bool(line) == bool(report.unmeasured)
    assert all(map(math.isfinite, report.metrics.values())) and not missing.keys() & report.metrics.keys()
    possible = {"eval/frechet_distance", "eval/precision", "eval/frechet_floor", "eval/bits_per_dim_standard_error"}
    assert possible - missing.keys() <= report.metrics.keys() and "eval/bits_per_dim" in report.metrics
    if judge and rows > 1:
        metric = quality_metric(spec, data)
        assert metric is not None and metric.provenance["rows_seed"] == 0


def test_labels_of_only_one_class_do_not_train_an_extractor() -> None:
    data = reference(SPEC)
    report = evaluate(model(), data, device=CPU)
    assert "a single class" in report.unmeasured[0] and "eval/frechet_distance" not in report.metrics


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ({"likelihood": "logistic"}, "stored"),
        ({"likelihood": "categorical"}, "stored"),
        ({"likelihood": "bernoulli", "binarise": "static"}, "static binary"),
        ({"likelihood": "bernoulli", "binarise": "dynamic"}, "dynamic binary"),
    ],
)
def test_the_provenance_of_bits_states_which_values_they_describe(family: dict[str, str], values: str) -> None:
    exp = experiment()
    exp = parse({**exp.resolved(), "family": {**exp.resolved()["family"], **family}})
    bound = exp.model(SPEC)
    now = Model(experiment=exp, family=bound, net=bound.build_net().eval(), meta={})
    _, how = likelihood(now, reference(SPEC), device=CPU)
    found = how["eval/bits_per_dim"]
    assert found["values"] == values == planned_provenance(exp)["eval/bits_per_dim"]["values"]
    assert ("binary" in values) == found["kind"].endswith("-binary") and found["rows_seed"] == 0
