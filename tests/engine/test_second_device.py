"""The engine on another device: training, measures and inference give the same results as on the CPU."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gen_ray.engine.evaluation.evaluate import evaluate
from gen_ray.engine.evaluation.summary_figure import half_masks
from gen_ray.engine.inference import latent
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher.latency_profile import measure
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.impute import complete, masked_likelihood
from gen_ray.engine.inference.score import score
from gen_ray.engine.training.loop import fit
from gen_ray.engine.training.session import LocalSession
from gen_ray.maths.chain import Known
from tests.engine.test_measures import reference
from tests.engine.tiny_models import CPU, FAMILIES, SPEC, experiment, images, model, splits
from tests.families.cases import Case, awake, rng
from tests.second_device import SECOND_DEVICE, Generator, MixedError, second_device

CASES = (
    ("vae", "categorical-conv"),
    ("ddpm", "eps-learned-simple-cosine-dit"),
    ("ddpm", "v-small-vlb-learned-discrete-mlp"),
    ("discrete", "absorbing-vb-unet"),
    ("discrete", "order-text"),
    ("score_sde", "vp-v-likelihood-mlp"),
)
"""Each family, each kind of net, and a learned schedule."""
TOLD = "validation/loss_nats"


def both(family: str) -> Iterator[tuple[torch.device, Model]]:
    """Yield the device and a model on it: the CPU first, then the other device."""
    for device in (CPU, SECOND_DEVICE):
        made = model(family)
        with second_device():
            yield device, replace(made, net=made.net.to(device))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_training_gives_the_same_weights_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    real = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, *, fused, **how: real(parameters, **how))
    found = []
    for device in (CPU, SECOND_DEVICE):
        exp = experiment(family, gradient_accumulation_steps=2, ema_snapshots=2)
        session = LocalSession(splits(exp), device=device)
        with second_device():
            fit(exp, exp.model(SPEC), session)
        found.append([line[TOLD] for _, line in session.history if TOLD in line])
    on_cpu, on_device = found
    assert len(on_cpu) == exp.training.epochs and on_cpu == pytest.approx(on_device, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_inference_gives_the_same_results_as_on_the_cpu(family: str) -> None:
    found: list[list[Tensor]] = []
    for device, made in both(family):
        x, steps = images(3), None if family == "vae" else 11
        metrics = evaluate(made, reference(SPEC), device=device).metrics
        completions = complete(made, x, half_masks(x), 2, steps=steps, device=device)
        nats = masked_likelihood(made, completions, x, effort=2, device=device).nll.nats
        scores = score(made, x, effort=2, repeats=2, device=device)
        measured = [value for name, value in metrics.items() if "second" not in name]
        found.append([torch.tensor(measured), completions.samples.float(), nats, scores.bits_per_dim])
        if family == "vae":
            found[-1] += [
                latent.interpolate(made, x, steps=2, device=device),
                latent.manifold(made, side=2, device=device),
            ]
            found[-1].append(latent.refine(made, x, steps=2, device=device).posterior.mu.cpu())
        assert measure(made, device).rows[0] == 1
    for on_cpu, on_device in zip(*found, strict=True):
        assert on_cpu.device == on_device.device == CPU
        torch.testing.assert_close(on_cpu, on_device, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CASES)
def test_all_computations_of_a_case_stay_on_its_device(family: str, name: str) -> None:
    case = Case(family, name)
    n, x = 2, case.x(2)
    known_part = Known(known=x, mask=torch.rand((n, *case.spec.shape), generator=rng()) < 0.5)
    with second_device():
        bound, net, on_device = case.model(), awake(case.model()).to(SECOND_DEVICE), x.to(SECOND_DEVICE)
        loss = bound.loss(net, on_device, Generator(SECOND_DEVICE).manual_seed(0), step=1).total
        assert loss.device == SECOND_DEVICE
        loss.mean().backward()
        fitted = bound.fitted(net)
        with torch.no_grad():
            nll = fitted.nll(net, on_device, Generator(SECOND_DEVICE).manual_seed(0), effort=2)
            assert nll.nats.device == SECOND_DEVICE
        for sampler, about in fitted.samplers().items():
            if not about.adaptive:  # with an untrained net the number of its steps is not fixed
                chain = fitted.chain(sampler, about.steps_up_to(3))
                assert generate(net, chain, n, seed=0, device=SECOND_DEVICE).device == CPU
        for imputer, about in fitted.imputers().items():
            chain = fitted.impute(imputer, about.steps_up_to(3))
            assert generate(net, chain, n, seed=0, device=SECOND_DEVICE, known=known_part).device == CPU


def test_a_mix_of_devices_that_a_gpu_refuses_is_refused() -> None:
    with second_device():
        on_device = torch.ones(3, device=SECOND_DEVICE)
        with pytest.raises(MixedError):
            _ = on_device + torch.ones(3)
        for own, other in ((CPU, SECOND_DEVICE), (SECOND_DEVICE, CPU)):
            with pytest.raises(MixedError, match=f"a generator of {own} draws on {other}"):
                torch.rand(3, generator=Generator(own), device=other)
