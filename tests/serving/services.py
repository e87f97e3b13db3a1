"""A fake model service without an engine: samples depend on the seed, and tests set how it misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import numpy as np

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.pareto import CostQuality
from gen_ray.serving.service import (
    JobResult,
    ModelCard,
    ModelService,
    RequestRefusedError,
    ServingJob,
    StreamPreview,
)

DIGITS = DataSpec(name="digits", kind="image", shape=(1, 8, 8), levels=17)
COLOUR = DataSpec(name="colour", kind="image", shape=(3, 4, 5), levels=256)
TEXT = DataSpec(name="text", kind="tokens", shape=(12,), levels=4, alphabet="abc ")
TOKENS = DataSpec(name="tokens", kind="tokens", shape=(6,), levels=300)
STEPS, LATENT = 10, 2


def card(name: str, spec: DataSpec, **changed: object) -> ModelCard:
    sampler = {"default_steps": STEPS, "nfe_per_step": 1, "summary": "of the test", "options": {"eta": [0.0, 1.0]}}
    fast = {"sampler": "ddim", "steps": 3, "nfe": 3}
    plain = ModelCard(
        id=name,
        version="7",
        family="ddpm",
        spec=spec,
        verbs=("sample", "impute", "score", "encode", "decode", "reconstruct"),
        samplers={"ddim": sampler, "ancestral": sampler},
        imputers={"repaint": sampler},
        default={"sampler": "ddim", "steps": STEPS, "nfe": STEPS},
        quality={"fast": fast, "balanced": fast, "best": fast},
        metric="frechet_distance",
        curve=[CostQuality(sampler="ddim", steps=3, nfe=3, seconds_per_sample=0.1, quality=2.0)],
        latent_dim=LATENT,
        limits={"n": 64, "steps": 1000, "work": 1e9},
    )
    return replace(plain, **changed)  # type: ignore[arg-type]


@dataclass
class FakeService:
    """A fake model service: answers at once or after step_seconds per step; records jobs and cancellations."""

    model_card: ModelCard
    step_seconds: float = 0.0
    trouble: Exception | None = None
    """Error raised instead of the answer; with fails_late, raised by a stream after the second preview."""
    fails_late: bool = False
    change_result: Callable[[JobResult], JobResult] = lambda answer: answer
    jobs: list[ServingJob] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    ignores_cancellation: bool = False
    """Whether a cancelled job continues."""

    async def card(self) -> ModelCard:
        return self.model_card

    async def run(self, job: ServingJob) -> JobResult:
        self.jobs.append(job)
        if self.trouble:
            raise self.trouble
        try:
            await asyncio.sleep(self.step_seconds * STEPS)
        except asyncio.CancelledError:
            self.cancelled.append(job.request_id)
            if self.ignores_cancellation:
                await asyncio.sleep(30)
            raise
        return self.change_result(self.answer(job))

    async def stream(self, job: ServingJob) -> AsyncIterator[StreamPreview | JobResult]:
        self.jobs.append(job)
        if self.trouble and not self.fails_late:
            raise self.trouble
        samples = self.answer(job).arrays["samples"].astype(np.int64)
        shown = sorted({round(STEPS * k / job.previews) for k in range(1, job.previews + 1)}) if job.previews else []
        try:
            for done in range(1, STEPS + 1):
                await asyncio.sleep(self.step_seconds)
                if self.trouble and done == 3:
                    raise self.trouble
                if done in shown:
                    yield StreamPreview(done=done, total=STEPS, samples=self.undecided(samples, done))
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(job.request_id)
            raise
        yield self.change_result(self.answer(job))

    def undecided(self, samples: np.ndarray, done: int) -> np.ndarray:
        flat = samples.reshape(len(samples), -1).copy()
        flat[:, flat.shape[1] * done // STEPS :] = -1
        return flat.reshape(samples.shape)

    def answer(self, job: ServingJob) -> JobResult:
        rng, spec = np.random.default_rng(job.seed), self.model_card.spec
        levels = spec.cardinalities if spec.is_table else spec.levels
        given = len(job.x) if job.x is not None else 0 if job.z is None else len(job.z)
        rows = job.n if job.verb == "sample" else given
        samples = rng.integers(0, levels, (rows, *spec.shape)).astype(np.int32)
        if job.verb == "impute":
            assert job.x is not None and job.mask is not None
            every = rng.integers(0, levels, (1, job.n, *spec.shape)).astype(np.int32)
            samples = np.where(job.mask[:, None], job.x[:, None], every)
        arrays = {
            "score": {"bits_per_dim": rng.random(given), "standard_error": rng.random(given)},
            "encode": {"mu": rng.normal(size=(given, LATENT)), "log_var": rng.normal(size=(given, LATENT))},
        }.get(job.verb, {"samples": samples if job.verb != "reconstruct" else job.x})
        return JobResult(
            arrays=arrays,  # type: ignore[arg-type]
            version=self.model_card.version,
            sampler=job.sampler or "ddim",
            steps=job.steps or STEPS,
            nfe=STEPS * job.n,
            seed=job.seed,
            queued_seconds=0.0,
            computed_seconds=0.5,
            notes={"kind": "vlb"} if job.verb == "score" else {},
        )


def fake_services() -> dict[str, FakeService]:
    """Return a fake model service for each kind of data."""
    return {spec.name: FakeService(card(spec.name, spec)) for spec in (DIGITS, COLOUR, TEXT, TOKENS)}


def refusing_service(error: RequestRefusedError) -> ModelService:
    return FakeService(card("digits", DIGITS), trouble=error)
