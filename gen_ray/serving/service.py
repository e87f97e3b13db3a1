"""The interface between HTTP and the engine: jobs, results, previews, errors, limits, cards and the model service.

All types are plain data, so that they can be sent between processes. N instances of D scalars, Z latent dimensions.
"""

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.pareto import CostQuality
from gen_ray.engine.inference.rows.conditions import RowConditions
from gen_ray.errors import PicklableError
from gen_ray.serving.tables import describe

Quality = Literal["fast", "balanced", "best"]


@dataclass(frozen=True, kw_only=True)
class ServingJob:
    """One request.

    Fields that a verb uses: sample: n, sampler, steps, quality, and for tables conditions, with the values that all
    samples have as x and mask (1, D); impute: x, mask, n (completions of each), sampler, steps; score: x, effort;
    encode and reconstruct: x; decode: z.

    x (N, *shape) is stored data, for tables −1 where a value is missing; mask (N, *shape) is True where known; z (N, Z)
    is float32.
    """

    request_id: str
    verb: str
    """Name of a verb in ``verbs.VERBS``."""
    key: str = ""
    """Name of the client's API key; keys share a model's time equally."""
    n: int = 1
    seed: int = 0
    sampler: str | None = None
    """Sampler or imputer, NAME or NAME:option=value. None: chosen by quality, otherwise the model's default."""
    steps: int | None = None
    quality: Quality | None = None
    deterministic: bool = False
    """Whether each forward is padded to a fixed size, so that the bytes do not depend on other requests."""
    x: np.ndarray | None = None
    mask: np.ndarray | None = None
    z: np.ndarray | None = None
    conditions: RowConditions | None = None
    effort: int | None = None
    statistics: bool = False
    """Whether impute also summarises the missing cells of a table."""
    deadline_seconds: float = 60.0
    previews: int = 0
    """Maximum number of previews to send while sampling; streams only."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of a job.

    arrays: ``samples`` (n, *shape) stored data of sample; (N, n, *shape) of impute; ``bits_per_dim`` (N,) and
    ``standard_error`` (N,) of score, for tables also ``bits`` (N,) and ``cells`` (N, D), the bits of each cell; ``mu``
    and ``log_var`` (N, Z) of encode; ``samples`` (N, *shape) of decode and reconstruct.
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
    """Further facts for the response, such as the ``kind`` of a likelihood."""
    imputed: Sequence[Mapping[str, Mapping[str, Any]]] = ()
    """Of impute with statistics: for each row, the statistics of its missing cells by column, as JSON."""


@dataclass(frozen=True, kw_only=True)
class StreamPreview:
    """A preview of unfinished samples: (n, *shape) in {0 … levels−1}, −1 where undecided."""

    done: int
    """Network evaluations done for all samples together."""
    total: int
    samples: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ErrorReply:
    """The reason why a job failed or was refused.

    It is returned as a value between processes, because Ray Serve would log an exception as a fault.
    """

    status: int
    """HTTP status: 422 invalid request, 429 busy, 499 cancelled, 500 not finite, 503 not ready, 504 too late."""
    code: str
    """A fixed identifier for programs: invalid, too_much, busy, cancelled, not_finite, unavailable, deadline."""
    message: str
    retry_after_seconds: float | None = None


class RequestRefusedError(PicklableError):
    """An error with the reply that the client gets."""

    def __init__(self, refusal: ErrorReply) -> None:
        """Wrap a reply."""
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The description of a served model, visible to every holder of a key."""

    id: str
    version: str
    family: str
    spec: DataSpec
    verbs: Sequence[str]
    samplers: Mapping[str, Mapping[str, Any]]
    """Fields of a Sampler by name, the default first; options are {name: [low, high]}."""
    imputers: Mapping[str, Mapping[str, Any]]
    default: Mapping[str, Any]
    """sampler, steps and nfe of a request that gives neither sampler nor steps."""
    quality: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """sampler, steps and nfe of fast, balanced and best; empty if no curve was measured."""
    metric: str | None = None
    curve: Sequence[CostQuality] = ()
    latent_dim: int | None = None
    exact_conditions: bool = False
    """For tables: whether samples with given values of columns, and marginals of missing values, are exact."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    """Maxima for one request: n, steps, work (n × network evaluations × D)."""
    copies: str | None = None
    """Why this version counts as a copy of its training data; it was promoted nevertheless, with --force."""
    ready: bool = True
    trouble: str | None = None
    """One line on why the newest version is not served; None if it is."""


class ModelService(Protocol):
    """One served model, in this process or behind a Ray Serve handle."""

    async def card(self) -> ModelCard:
        """Return the model's card. Raise RequestRefusedError if the model is not ready."""
        ...

    async def run(self, job: ServingJob) -> JobResult:
        """Run a job. Raise RequestRefusedError. Cancelling the task stops the job within one network evaluation."""
        ...

    def stream(self, job: ServingJob) -> AsyncIterator[StreamPreview | JobResult]:
        """Run a job and yield previews, then the result. Raise RequestRefusedError, also between items."""
        ...


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Maximum size and duration of one request."""

    n: int = 256
    """Samples; for impute, instances × completions."""
    steps: int = 4000
    work: float = 1e8
    """Samples × network evaluations × scalars of a sample: 64 images of 28 × 28 in 1000 steps are half of it."""
    deadline_seconds: float = 300.0


def card_json(card: ModelCard) -> dict[str, Any]:
    """Return a card as JSON."""
    facts = {name: value for name, value in vars(card).items() if name not in ("spec", "curve")}
    spec = card.spec
    data = {
        "name": spec.name,
        "kind": spec.kind,
        "shape": list(spec.shape),
        "levels": spec.levels,
        "alphabet": spec.alphabet,
        **(describe(spec) if spec.is_table else {}),
    }
    fields = {**facts, "data": data, "verbs": list(card.verbs), "curve": [asdict(point) for point in card.curve]}
    sent: dict[str, Any] = _finite(fields)
    return sent


def card_text(card: ModelCard) -> str:
    """Return a card as JSON text. Raise TypeError or ValueError if a value cannot be serialised."""
    return json.dumps(card_json(card), allow_nan=False)


def unavailable_json(name: str) -> dict[str, Any]:
    """Return the list entry of a model that does not respond."""
    return {"id": name, "ready": False, "trouble": "the model does not answer"}


def _finite(value: Any) -> Any:
    """Return a value with NaN and infinity replaced by None, because JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
