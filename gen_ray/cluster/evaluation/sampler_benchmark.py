"""Sampler × steps of a trained model, measured in a worker: what serving it well costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from gen_ray.cluster.evaluation.evaluate import device_of, place_of, reference_of, unwrapped
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.evaluation.pareto import CostQuality, SamplerChoice
from gen_ray.engine.evaluation.quality_metrics import quality_metric
from gen_ray.engine.evaluation.sampler_settings import (
    SamplerSetting,
    affordable,
    measure_setting,
    sampler_settings,
    seconds_an_evaluation,
)
from gen_ray.engine.inference import artifact, fingerprint
from gen_ray.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class MeasurementPlan:
    """What is to be measured: named samplers and steps or the usual ones, n samples of each, so many minutes of it."""

    samplers: Sequence[str] = ()
    steps: Sequence[int] = ()
    n: int = 1000
    seed: int = 0
    batch_size: int = 64
    minutes: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The points, what they were measured with, and the choices that would have taken too long."""

    metric: str
    points: Sequence[CostQuality]
    provenance: dict[str, Any]
    left_out: Sequence[SamplerSetting]


class SamplerBenchmark:
    """A worker with the model and the judge in it."""

    def __init__(self, folder: Path, data: Path, cpus: int, order: MeasurementPlan) -> None:
        """Load both."""
        prepared, self.order, self.cpus = Prepared.load(data), order, cpus
        self.device = device_of(cpus)
        self.model = artifact.load(folder, device=self.device)
        self.measure = quality_metric(prepared.spec, reference_of(prepared))

    def plan(self) -> tuple[list[SamplerSetting], list[SamplerSetting], str, dict[str, Any]] | None:
        """Return what to measure and what to leave out, the metric and its provenance; None where nothing can judge."""
        if self.measure is None:
            return None
        order = self.order
        dishes = sampler_settings(self.model.family, order.samplers, order.steps)
        each = seconds_an_evaluation(self.model, batch_size=order.batch_size, device=self.device)
        kept, left = affordable(dishes, 60 * order.minutes / (each * order.n))
        how = {"samples": order.n, "seed": order.seed, "batch_size": order.batch_size, "threads": self.cpus}
        return kept, left, self.measure.metric, {**self.measure.provenance, **how}

    def taste(self, dish: SamplerSetting) -> CostQuality:
        """Measure one choice."""
        assert self.measure is not None
        order = self.order
        return measure_setting(
            self.model, dish, self.measure, order.n, seed=order.seed, batch_size=order.batch_size, device=self.device
        )

    def fingerprint(self, choice: SamplerChoice) -> tuple[str, str]:
        """Return the SHA-256 of fixed samples of a choice, and the build it holds on."""
        return fingerprint.fingerprint(self.model, choice, self.device), fingerprint.build(self.model, self.device)


class Measurement:
    """The worker, from here."""

    def __init__(self, experiment: Experiment, prepared: Prepared, folder: Path, order: MeasurementPlan) -> None:
        """Start it, with what all workers of the training had."""
        place = place_of(experiment)
        self._kitchen = (
            ray.remote(SamplerBenchmark).options(**place).remote(folder, prepared.folder, place["num_cpus"], order)
        )

    def points(self, watch: Callable[[int, int, CostQuality], None]) -> Measured | None:
        """Return the curve, telling watch (done, of, newest) on the way; None where nothing can judge the samples."""
        plan = self._ask("plan")
        if plan is None:
            return None
        kept, left, metric, how = plan
        found: list[CostQuality] = []
        for dish in kept:
            found.append(self._ask("taste", dish))
            watch(len(found), len(kept), found[-1])
        return Measured(metric=metric, points=found, provenance=how, left_out=left)

    def fingerprint(self, choice: SamplerChoice) -> tuple[str, str]:
        """Return the SHA-256 of fixed samples of a choice, and the build it holds on."""
        found: tuple[str, str] = self._ask("fingerprint", choice)
        return found

    def _ask(self, method: str, *args: Any) -> Any:
        return unwrapped(getattr(self._kitchen, method).remote(*args))
