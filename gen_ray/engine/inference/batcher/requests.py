"""A request in the batcher: its rows, and the handle that waits for it, reports its times and cancels it."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gen_ray.engine.inference.batcher.errors import CancelledError, DeadlineExceededError
from gen_ray.maths.chain import Chain, Known, State


@dataclass(frozen=True)
class Preview:
    """An unfinished sampling request: samples (n, *shape), −1 where undecided, after done of total evaluations."""

    done: int
    total: int
    samples: Tensor


OnPreview = Callable[[Preview], None]
"""A callback for previews. It runs in the batcher's thread and must not block."""


class RequestHandle:
    """The future of a request, its deadline and its times. ``done()`` of the future becomes true last."""

    def __init__(self, deadline: float | None = None, key: str = "") -> None:
        """Start the clock. deadline is a time of time.monotonic; key is the name of the API key of the request."""
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # a running future cannot be cancelled; cancel_request does that
        self.deadline, self.key = deadline, key
        self.network_seconds: float | None = None  # seconds of network time, see FairQueue; None until it first waits
        self.submitted_at, self.begun, self.ended = time.monotonic(), None, None  # type: float, float | None, float | None
        self.cancelled = False

    def cancel_request(self) -> None:
        """Cancel the request; its rows leave the batch before the next evaluation."""
        self.cancelled = True

    @property
    def is_late(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def queued_seconds(self) -> float:
        """Return the seconds from submission to the first evaluation, or until now."""
        return (self.begun or self.ended or time.monotonic()) - self.submitted_at

    @property
    def computed_seconds(self) -> float:
        """Return the seconds from the first evaluation to the end, or until now."""
        return (self.ended or time.monotonic()) - self.begun if self.begun is not None else 0.0

    def begin(self) -> None:
        """Record the time of the first evaluation; later calls change nothing."""
        self.begun = self.begun or time.monotonic()

    @property
    def cancel_reason(self) -> Exception | None:
        """Return the error with which the request must end early; None while it should go on."""
        if self.cancelled:
            return CancelledError("the request was cancelled")
        return DeadlineExceededError("the deadline of the request has passed") if self.is_late else None

    def end(self, result: Any = None, error: Exception | None = None) -> None:
        """Set the result or the error of the future."""
        self.ended = time.monotonic()
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


@dataclass(eq=False)
class SampleRow:
    """One sample of a request: its position in the chain, and its state (1, …) while it is not in the batch."""

    request: "SamplingRequest"
    index: int
    position: int = 0
    state: State | None = None
    keys: frozenset[str] = frozenset()
    """The entries of its state at the start; rows of other requests may add further entries to the batch."""


class SamplingRequest:
    """n rows along one chain. Rows start in order and as late as possible, because a waiting row needs no memory."""

    def __init__(
        self,
        chain: Chain,
        n: int,
        *,
        seed: int,
        known: Known | None = None,
        padded: bool = False,
        handle: RequestHandle | None = None,
        on_preview: OnPreview | None = None,
        previews: int = 0,
    ) -> None:
        """Create a request. known (n, …) are values to keep; on_preview is called with evenly spaced previews.

        With padded, the forwards of the rows are padded to a fixed number of rows.
        """
        self.chain, self.n, self.seed, self.known, self.padded = chain, n, seed, known, padded
        self.table = chain.table.numpy()
        self.handle, self.on_preview = handle or RequestHandle(), on_preview
        self.started_rows: list[SampleRow] = []
        self.begun = self.finished = self.done = 0
        self.samples: Tensor | None = None
        self._preview_interval = max(1, -(-self.total // (previews + 1))) if previews and on_preview else 0

    @property
    def total(self) -> int:
        """Return the number of evaluations of all rows."""
        return self.n * self.chain.nfe

    @property
    def rows_left(self) -> int:
        """Return how many rows the next batch could take."""
        return self.n - self.finished

    def next_rows(self, count: int) -> list[SampleRow]:
        """Return at most count rows for the next batch: the most advanced ones first, then new ones."""
        while len(self.started_rows) < min(count, self.rows_left):
            self.started_rows.append(SampleRow(self, self.begun))
            self.begun += 1
        return self.started_rows[:count]

    def take_samples(self, rows: list[SampleRow], samples: Tensor) -> None:
        """Store the samples (B, *shape) of finished rows."""
        if self.samples is None:
            self.samples = torch.empty((self.n, *samples.shape[1:]), dtype=samples.dtype)
        self.samples[[row.index for row in rows]] = samples
        gone = set(map(id, rows))
        self.started_rows = [row for row in self.started_rows if id(row) not in gone]
        self.finished += len(rows)

    def advance(self, rows: int) -> bool:
        """Count evaluations; return whether a preview is due."""
        before, self.done = self.done, self.done + rows
        interval = self._preview_interval
        return bool(interval) and self.done < self.total and before // interval < self.done // interval
