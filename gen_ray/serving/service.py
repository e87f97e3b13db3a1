"""The counter between HTTP and the engine: a request as the engine wants it, what is known of a served model, answers.

Everything here is plain data, so that it crosses processes. N instances, D scalars of one, Z latent dimensions.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.pareto import CostQuality

Verb = Literal["sample", "impute", "score", "encode", "decode", "reconstruct"]
Quality = Literal["fast", "balanced", "best"]


@dataclass(frozen=True, kw_only=True)
class ServingJob:
    """One request.

    Which fields a verb heeds: sample n and how to sample; impute x, mask, n completions of each and how; score x and
    effort; encode and reconstruct x; decode z.

    x (N, *shape) is stored data, mask (N, *shape) True where known, z (N, Z) float32.
    """

    request_id: str
    verb: Verb
    key: str = ""
    """The name of the API key that asks; keys share a model's time equally."""
    n: int = 1
    seed: int = 0
    sampler: str | None = None
    """Or imputer, NAME or NAME:option=value; None means by quality, or else the model's own default."""
    steps: int | None = None
    quality: Quality | None = None
    deterministic: bool = False
    """Whether every forward is padded to one fixed size, so that the bytes are the same in any company."""
    x: np.ndarray | None = None
    mask: np.ndarray | None = None
    z: np.ndarray | None = None
    effort: int | None = None
    deadline_seconds: float = 60.0
    previews: int = 0
    """How many pictures of the way to send while sampling, at most; streams only."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What came of a job.

    arrays: ``samples`` (n, *shape) stored data of sample; (N, n, *shape) of impute; ``bits_per_dim`` (N,) and
    ``standard_error`` (N,) of score; ``mu`` and ``log_var`` (N, Z) of encode; ``samples`` (N, *shape) of decode and
    reconstruct.
    """

    arrays: Mapping[str, np.ndarray]
    version: str
    sampler: str | None
    steps: int | None
    nfe: int
    seed: int
    queued_seconds: float
    computed_seconds: float
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Further words for the response, such as the ``kind`` of a likelihood."""


@dataclass(frozen=True, kw_only=True)
class StreamPreview:
    """A look at samples under way: (n, *shape) in {0 … levels−1}, −1 where nothing is decided yet."""

    done: int
    """Network evaluations done, over all samples."""
    total: int
    samples: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ErrorReply:
    """Why a job was not done. Travels as a value, for an exception would be logged as a fault on its way."""

    status: int
    """HTTP's: 422 the request's fault, 429 busy, 499 given up, 500 not finite, 503 not ready, 504 too late."""
    code: str
    """One word for programs: invalid, too_much, busy, cancelled, not_finite, unavailable, deadline."""
    message: str
    retry_after_seconds: float | None = None


class RequestRefusedError(Exception):
    """A refusal on its way to the client."""

    def __init__(self, refusal: ErrorReply) -> None:
        """Keep the refusal."""
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known of a served model, and may be shown to anybody with a key."""

    id: str
    version: str
    family: str
    spec: DataSpec
    verbs: Sequence[Verb]
    samplers: Mapping[str, Mapping[str, Any]]
    """By name, the default one first: the fields of a Sampler, among them options {name: [low, high]}."""
    imputers: Mapping[str, Mapping[str, Any]]
    default: Mapping[str, Any]
    """What a request without sampler and steps gets: sampler, steps, nfe."""
    quality: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """fast, balanced and best: sampler, steps, nfe; empty where no curve was measured."""
    metric: str | None = None
    curve: Sequence[CostQuality] = ()
    latent_dim: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    """What a request may ask for at most: n, steps, work (n × network evaluations × D)."""
    ready: bool = True
    trouble: str | None = None
    """Why the newest version is not the one served, in one line; None where it is."""


class ModelService(Protocol):
    """One served model, in this process or behind a Ray Serve handle."""

    async def card(self) -> ModelCard:
        """Return what is known of it."""
        ...

    async def run(self, job: ServingJob) -> JobResult:
        """Do a job. Raise RefusedError. Cancelling the task gives the job up within one network evaluation."""
        ...

    def stream(self, job: ServingJob) -> AsyncIterator[StreamPreview | JobResult]:
        """Do a job, telling of it on the way; the answer comes last. Raise RefusedError, also on the way."""
        ...
