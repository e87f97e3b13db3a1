"""The sampler settings to measure: each sampler at several numbers of steps, within a time budget."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gen_ray.engine.evaluation.pareto import CostQuality
from gen_ray.engine.evaluation.quality_metrics import QualityMetric
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.sampler_choice import SamplerChoice
from gen_ray.errors import UserError, argument
from gen_ray.family import Family
from gen_ray.maths.sampler import parse_sampler

SCALES = (1 / 4, 1 / 2, 1, 2)
"""Measured numbers of steps, as multiples of a sampler's default."""


@dataclass(frozen=True)
class SamplerSetting:
    """A sampler choice and the network evaluations per sample."""

    choice: SamplerChoice
    nfe: int


def sampler_settings(family: Family, samplers: Sequence[str] = (), steps: Sequence[int] = ()) -> list[SamplerSetting]:
    """Return the settings of the given samplers, the cheapest first; by default of all samplers that are not adaptive.

    steps defaults to SCALES of each sampler's default. Numbers of steps that a sampler does not allow are skipped.
    Raise UserError for an unknown sampler or option, and where no setting is left.
    """
    known = family.samplers()
    for name in samplers:
        parse_sampler(name, known, steps=None)
    names = list(samplers) or [name for name, about in known.items() if not about.adaptive]
    settings: dict[SamplerChoice, int] = {}
    for name in names:
        default = known[name.partition(":")[0]].default_steps if name.partition(":")[0] in known else 1
        for number in steps or sorted({max(1, round(scale * default)) for scale in SCALES}):
            try:
                settings[SamplerChoice(name, number)] = family.chain(name, number).nfe
            except UserError:
                if samplers and steps:
                    raise
    if not settings:
        raise UserError(
            "no sampler allows these numbers of steps; omit them, or list the samplers "
            f"({argument('list_samplers')} of gen-ray sample)",
            field="steps",
        )
    return sorted((SamplerSetting(choice, nfe) for choice, nfe in settings.items()), key=lambda setting: setting.nfe)


def affordable(
    settings: Sequence[SamplerSetting], evaluations: float
) -> tuple[list[SamplerSetting], list[SamplerSetting]]:
    """Return the settings whose evaluations per sample add up to at most evaluations, and the more expensive rest.

    The cheapest setting is always included.
    """
    count, total = 0, 0
    while count < len(settings) and total + settings[count].nfe <= evaluations:
        total += settings[count].nfe
        count += 1
    count = max(1, count)
    return list(settings[:count]), list(settings[count:])


def measure_setting(
    model: Model,
    setting: SamplerSetting,
    metric: QualityMetric,
    n: int,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> CostQuality:
    """Draw n samples with a setting and return their cost and quality. The net should be warm."""
    choice = setting.choice
    chain = model.family.chain(choice.sampler, choice.steps)
    began = time.perf_counter()
    with autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, n, seed=seed, device=device, batch_size=batch_size)
    seconds = (time.perf_counter() - began) / n
    quality, error = metric(samples)
    return CostQuality(
        sampler=choice.sampler,
        steps=choice.steps,
        nfe=setting.nfe,
        seconds_per_sample=seconds,
        quality=quality,
        error=error,
    )


def seconds_per_evaluation(model: Model, *, batch_size: int, device: torch.device) -> float:
    """Return the seconds of one row's network evaluation in a batch of this size; also warms the net up."""
    setting = sampler_settings(model.family)[0]
    chain = model.family.chain(setting.choice.sampler, setting.choice.steps)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        with autocast(model.experiment.training.precision, device):
            generate(model.net, chain, batch_size, seed=0, device=device, batch_size=batch_size)
        times.append((time.perf_counter() - began) / (batch_size * setting.nfe))
    return times[-1]
