"""Inference on the device: completions, likelihoods and latent codes equal those of the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from gen_ray.engine.evaluation.summary_figure import half_masks
from gen_ray.engine.inference import latent
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.impute import Completions, complete, masked_likelihood
from gen_ray.engine.inference.score import score
from tests.engine.tiny_models import images, model
from tests.gpu.comparison import NLL_RTOL, RTOL, HostDraws, assert_near, assert_same_samples, full_precision, on
from tests.second_device import Generator

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def both(family: str, device: torch.device) -> Iterator[tuple[torch.device, Model]]:
    """Yield the CPU and the device, each with a copy of one model; both use the draws of the CPU."""
    for target in (CPU, device):
        made = model(family)
        net = made.net if target is CPU else on(device, made.net)
        with full_precision(), HostDraws(), patch.object(torch, "Generator", Generator):
            yield target, replace(made, net=net)


@pytest.mark.parametrize("family", ["vae", "ddpm-learned", "tokens", "score_sde"])
def test_completions_and_likelihoods(family: str, device: torch.device) -> None:
    samples: list[Tensor] = []
    nats: list[Tensor] = []
    bits: list[Tensor] = []
    x = images(8)
    for target, made in both(family, device):
        steps = None if family == "vae" else 11
        completions = complete(made, x, half_masks(x), 2, steps=steps, device=target)
        samples.append(completions.samples.flatten(0, 1))
        fixed = Completions(samples=x[:, None], mask=half_masks(x), spec=made.spec, nfe=1, causal=False)
        nats.append(masked_likelihood(made, fixed, x, effort=2, device=target).nll.nats)
        bits.append(score(made, x, effort=2, repeats=2, device=target).bits_per_dim)
    assert_same_samples(samples[1], samples[0], levels=0 if family == "tokens" else 1)
    assert_near(nats[1], nats[0], NLL_RTOL)
    assert_near(bits[1], bits[0], NLL_RTOL)


def test_latent_codes(device: torch.device) -> None:
    pictures: list[Tensor] = []
    codes: list[Tensor] = []
    x = images(8)
    for target, made in both("vae", device):
        pictures.append(latent.interpolate(made, x, steps=3, device=target))
        pictures.append(latent.manifold(made, side=3, device=target))
        codes.append(latent.encode(made, x, device=target).mu.cpu())
        codes.append(latent.refine(made, x, steps=5, device=target).posterior.mu.cpu())
    assert_same_samples(pictures[2].flatten(0, 1), pictures[0].flatten(0, 1))
    assert_same_samples(pictures[3], pictures[1])
    assert_near(codes[2], codes[0], RTOL)
    assert_near(codes[3], codes[1], 100 * RTOL)  # the length of Adam's steps hardly depends on the gradient
