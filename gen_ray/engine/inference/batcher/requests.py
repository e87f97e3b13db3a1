"""A request in the batcher: the walk of its rows, and the ticket by which it is waited for, watched and given up."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gen_ray.engine.inference.batcher.errors import CancelledError, DeadlineExceededError
from gen_ray.family import Chain, Known, State


@dataclass(frozen=True)
class Preview:
    """A walk under way: samples (n, *shape), −1 where nothing is decided, after so many of all its evaluations."""

    done: int
    total: int
    samples: Tensor


OnPreview = Callable[[Preview], None]
"""Called in the batcher's thread; must not block."""


class RequestHandle:
    """A request's future, and when what happened to it; ``done()`` of the future comes last."""

    def __init__(self, deadline: float | None = None, key: str = "") -> None:
        """Begin now; deadline is on the clock of time.monotonic, key the name of the API key that asked."""
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # it is given up by give_up alone
        self.deadline, self.key = deadline, key
        self.spent: float | None = None  # seconds of the net that it had, see FairQueue; None until it first asks
        self.asked, self.begun, self.ended = time.monotonic(), None, None  # type: float, float | None, float | None
        self.given_up = False

    def cancel_request(self) -> None:
        """Want it no more: its rows are gone before the next tick."""
        self.given_up = True

    @property
    def late(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def queued_seconds(self) -> float:
        """Return the time from asking to the first evaluation, or until now."""
        return (self.begun or self.ended or time.monotonic()) - self.asked

    @property
    def computed_seconds(self) -> float:
        """Return the time from the first evaluation to the end, or until now."""
        return (self.ended or time.monotonic()) - self.begun if self.begun is not None else 0.0

    def begin(self) -> None:
        """Note the first evaluation; later ones change nothing."""
        self.begun = self.begun or time.monotonic()

    @property
    def cancel_reason(self) -> Exception | None:
        """Return why nobody waits for it any more, None where somebody does."""
        if self.given_up:
            return CancelledError("given up")
        return DeadlineExceededError("its deadline has passed") if self.late else None

    def end(self, result: Any = None, error: Exception | None = None) -> None:
        """Hand over what came of it."""
        self.ended = time.monotonic()
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


@dataclass(eq=False)
class SampleRow:
    """One sample of a walk: where it stands, and its state (1, …) while it is not in the batch."""

    walk: "SamplingRequest"
    index: int
    position: int = 0
    state: State | None = None
    keys: frozenset[str] = frozenset()
    """What its state had when it began; another row may bring more into a batch."""


class SamplingRequest:
    """n rows along one chain. Rows begin in order and as late as possible: one that waits costs no memory."""

    def __init__(
        self,
        chain: Chain,
        n: int,
        *,
        seed: int,
        held: Known | None = None,
        fixed: bool = False,
        ticket: RequestHandle | None = None,
        watch: OnPreview | None = None,
        looks: int = 0,
    ) -> None:
        """Let watch have as many looks on the way, evenly; held (n, …) is what the rows must keep."""
        self.chain, self.n, self.seed, self.held, self.fixed = chain, n, seed, held, fixed
        self.table = chain.table.numpy()
        self.ticket, self.watch = ticket or RequestHandle(), watch
        self.going: list[SampleRow] = []
        self.begun = self.finished = self.done = 0
        self.samples: Tensor | None = None
        self._every = max(1, -(-self.total // (looks + 1))) if looks and watch else 0

    @property
    def total(self) -> int:
        """Return all evaluations of all rows."""
        return self.n * self.chain.nfe

    @property
    def wanted(self) -> int:
        """Return how many rows could go along now."""
        return self.n - self.finished

    def next_rows(self, count: int) -> list[SampleRow]:
        """Return the rows that go along: those farthest on, then new ones."""
        while len(self.going) < min(count, self.wanted):
            self.going.append(SampleRow(self, self.begun))
            self.begun += 1
        return self.going[:count]

    def take_samples(self, rows: list[SampleRow], samples: Tensor) -> None:
        """Take the samples (B, *shape) of rows that are at their end."""
        if self.samples is None:
            self.samples = torch.empty((self.n, *samples.shape[1:]), dtype=samples.dtype)
        self.samples[[row.index for row in rows]] = samples
        gone = set(map(id, rows))
        self.going = [row for row in self.going if id(row) not in gone]
        self.finished += len(rows)

    def advance(self, rows: int) -> bool:
        """Count evaluations; return whether it is time for a look."""
        before, self.done = self.done, self.done + rows
        return bool(self._every) and self.done < self.total and before // self._every < self.done // self._every
