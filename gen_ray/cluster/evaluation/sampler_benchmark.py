"""Benchmark of samplers and steps of a trained model, in a worker: the cost of serving at a given quality."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from gen_ray.cluster.evaluation.evaluate import device_of, reference_of, unwrap_error, worker_options
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.evaluation.pareto import CostQuality
from gen_ray.engine.evaluation.quality_metrics import quality_metric
from gen_ray.engine.evaluation.sampler_settings import (
    SamplerSetting,
    affordable,
    measure_setting,
    sampler_settings,
    seconds_per_evaluation,
)
from gen_ray.engine.inference import artifact, fingerprint
from gen_ray.engine.inference.sampler_choice import SamplerChoice
from gen_ray.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class MeasurementPlan:
    """Settings of the benchmark: samplers and steps (default: the usual ones), samples each, time limit in minutes."""

    samplers: Sequence[str] = ()
    steps: Sequence[int] = ()
    n: int = 1000
    seed: int = 0
    batch_size: int = 64
    minutes: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured points, their provenance, and the settings left out because they would have taken too long."""

    metric: str
    points: Sequence[CostQuality]
    provenance: dict[str, Any]
    left_out: Sequence[SamplerSetting]


class SamplerBenchmark:
    """An actor that holds the model and the quality metric."""

    def __init__(self, folder: Path, data: Path, cpus: int, order: MeasurementPlan) -> None:
        """Load the artifact in folder and the reference data; cpus is the number of threads."""
        prepared, self.order, self.cpus = Prepared.load(data), order, cpus
        self.device = device_of(cpus)
        self.model = artifact.load(folder, device=self.device)
        self.measure = quality_metric(prepared.spec, reference_of(prepared))

    def plan(self) -> tuple[list[SamplerSetting], list[SamplerSetting], str, dict[str, Any]] | None:
        """Return settings to measure, settings to leave out, metric, provenance; None if no metric fits the data."""
        if self.measure is None:
            return None
        order = self.order
        settings = sampler_settings(self.model.family, order.samplers, order.steps)
        each = seconds_per_evaluation(self.model, batch_size=order.batch_size, device=self.device)
        chosen, left_out = affordable(settings, 60 * order.minutes / (each * order.n))
        how = {"samples": order.n, "seed": order.seed, "batch_size": order.batch_size, "threads": self.cpus}
        return chosen, left_out, self.measure.metric, {**self.measure.provenance, **how}

    def measure_setting(self, setting: SamplerSetting) -> CostQuality:
        """Measure one setting."""
        assert self.measure is not None
        order = self.order
        return measure_setting(
            self.model, setting, self.measure, order.n, seed=order.seed, batch_size=order.batch_size, device=self.device
        )

    def fingerprint(self, choice: SamplerChoice) -> tuple[str, str]:
        """Return the SHA-256 of fixed samples of a choice, and the software build for which it is valid."""
        return fingerprint.fingerprint(self.model, choice, self.device), fingerprint.build(self.model, self.device)


class Measurement:
    """A client of the SamplerBenchmark actor."""

    def __init__(self, experiment: Experiment, prepared: Prepared, folder: Path, order: MeasurementPlan) -> None:
        """Start the actor with the resources of all of the training's workers."""
        options = worker_options(experiment)
        self._benchmark = (
            ray.remote(SamplerBenchmark).options(**options).remote(folder, prepared.folder, options["num_cpus"], order)
        )

    def points(self, watch: Callable[[int, int, CostQuality], None]) -> Measured | None:
        """Return the measured points, calling watch(done, of, newest) after each; None if no metric applies."""
        plan = self._ask("plan")
        if plan is None:
            return None
        chosen, left_out, metric, how = plan
        points: list[CostQuality] = []
        for setting in chosen:
            points.append(self._ask("measure_setting", setting))
            watch(len(points), len(chosen), points[-1])
        return Measured(metric=metric, points=points, provenance=how, left_out=left_out)

    def fingerprint(self, choice: SamplerChoice) -> tuple[str, str]:
        """Return the SHA-256 of fixed samples of a choice, and the software build for which it is valid."""
        result: tuple[str, str] = self._ask("fingerprint", choice)
        return result

    def _ask(self, method: str, *args: Any) -> Any:
        return unwrap_error(getattr(self._benchmark, method).remote(*args))
