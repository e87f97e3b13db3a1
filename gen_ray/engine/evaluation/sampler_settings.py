"""What to measure of a model's samplers: each at some numbers of steps, as far as the time allows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gen_ray.engine.evaluation.pareto import CostQuality, SamplerChoice
from gen_ray.engine.evaluation.quality_metrics import QualityMetric
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.training.step import autocast
from gen_ray.errors import UserError
from gen_ray.family import Family, parse_sampler

SCALES = (1 / 4, 1 / 2, 1, 2)
"""Of a sampler's default steps."""


@dataclass(frozen=True)
class SamplerSetting:
    """A choice and the network evaluations that a sample of it takes."""

    choice: SamplerChoice
    nfe: int


def sampler_settings(family: Family, samplers: Sequence[str] = (), steps: Sequence[int] = ()) -> list[SamplerSetting]:
    """Return the choices there are, the cheapest first: named samplers or all that are no adaptive solvers.

    Numbers of steps that a sampler does not take are left out. Raise UserError for an unknown sampler or option, and
    where nothing is left.
    """
    known = family.samplers()
    for name in samplers:
        parse_sampler(name, known, steps=None)
    names = list(samplers) or [name for name, about in known.items() if not about.adaptive]
    found: dict[SamplerChoice, int] = {}
    for name in names:
        default = known[name.partition(":")[0]].default_steps if name.partition(":")[0] in known else 1
        for number in steps or sorted({max(1, round(scale * default)) for scale in SCALES}):
            try:
                found[SamplerChoice(name, number)] = family.chain(name, number).nfe
            except UserError:
                if samplers and steps:
                    raise
    if not found:
        raise UserError("--steps: no sampler takes these; leave it out, or see gen-ray sample MODEL --list-samplers")
    return sorted((SamplerSetting(choice, nfe) for choice, nfe in found.items()), key=lambda dish: dish.nfe)


def affordable(
    dishes: Sequence[SamplerSetting], evaluations: float
) -> tuple[list[SamplerSetting], list[SamplerSetting]]:
    """Return those that together take at most so many evaluations a sample, and the dearest ones that do not fit."""
    kept, spent = 0, 0
    while kept < len(dishes) and spent + dishes[kept].nfe <= evaluations:
        spent += dishes[kept].nfe
        kept += 1
    kept = max(1, kept)
    return list(dishes[:kept]), list(dishes[kept:])


def measure_setting(
    model: Model,
    dish: SamplerSetting,
    judge: QualityMetric,
    n: int,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> CostQuality:
    """Draw n samples of a choice and return what they cost and are worth. The net should be warm."""
    choice = dish.choice
    chain = model.family.chain(choice.sampler, choice.steps)
    began = time.perf_counter()
    with autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, n, seed=seed, device=device, batch_size=batch_size)
    seconds = (time.perf_counter() - began) / n
    quality, error = judge(samples)
    return CostQuality(
        sampler=choice.sampler,
        steps=choice.steps,
        nfe=dish.nfe,
        seconds_per_sample=seconds,
        quality=quality,
        error=error,
    )


def seconds_an_evaluation(model: Model, *, batch_size: int, device: torch.device) -> float:
    """Return what a network evaluation of a row costs in a batch of this size; warms the net up."""
    dish = sampler_settings(model.family)[0]
    chain = model.family.chain(dish.choice.sampler, dish.choice.steps)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        with autocast(model.experiment.training.precision, device):
            generate(model.net, chain, batch_size, seed=0, device=device, batch_size=batch_size)
        times.append((time.perf_counter() - began) / (batch_size * dish.nfe))
    return times[-1]
