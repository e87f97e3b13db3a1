"""The scheduler of sampling requests: the rows of the next evaluation, previews, results and errors."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from gen_ray.engine.inference.batcher.batched_net import BatchingNet, without_inference_mode
from gen_ray.engine.inference.batcher.errors import NotFiniteError
from gen_ray.engine.inference.batcher.requests import Preview, SampleRow, SamplingRequest
from gen_ray.engine.inference.batcher.running_batch import RunningBatch

OnFinished = Callable[[SamplingRequest, Tensor | None, Exception | None], None]
"""Callback (request, samples, error) for a request that has left the scheduler; samples or error is None."""


class Scheduler:
    """All sampling requests in progress. Requests with padded forwards have a separate running batch."""

    def __init__(self, device: torch.device, padded_rows: int, on_finished: OnFinished) -> None:
        """Create an empty scheduler; on_finished is called with the outcome of each request."""
        self.requests: list[SamplingRequest] = []
        self._on_finished = on_finished
        self._batches = {False: RunningBatch(device), True: RunningBatch(device, padded_rows=padded_rows)}

    def batch_for(self, first: SamplingRequest | None) -> RunningBatch:
        """Return the running batch for the rows of a request."""
        return self._batches[first is not None and first.padded]

    def step(self, batch: RunningBatch, shares: Mapping[SamplingRequest, int], net: BatchingNet) -> None:
        """Advance the given number of rows of each request by one evaluation."""
        batch.set_rows([row for request, rows in shares.items() for row in request.next_rows(rows)])
        for request in shares:
            request.handle.begin()
        batch.tick(net)
        due = [request for request, rows in shares.items() if request.advance(rows)]
        for finished, samples, finite in batch.pop_finished():
            self._finish_rows(finished, samples, finite)
        for request in due:
            if request in self.requests and request.on_preview is not None:
                request.on_preview(Preview(request.done, request.total, _preview_of(request, batch)))

    def _finish_rows(self, rows: list[SampleRow], samples: Tensor, finite: bool) -> None:
        request = rows[0].request
        if request not in self.requests:
            return
        if not finite:
            self.drop(request, NotFiniteError("the network's output is not finite"))
            return
        request.take_samples(rows, without_inference_mode(samples))
        if not request.rows_left:
            self.requests.remove(request)
            self._on_finished(request, request.samples, None)

    def drop(self, request: SamplingRequest, error: Exception) -> None:
        """Remove a request and its rows, and report the error."""
        batch = self._batches[request.padded]
        batch.set_rows([row for row in batch.rows if row.request is not request])
        self.requests.remove(request)
        self._on_finished(request, None, error)

    def drop_all(self, batch: RunningBatch, shares: Iterable[SamplingRequest], error: Exception) -> None:
        """Remove all requests with a row in, or due in, an evaluation that raised: the state of the rows is unknown."""
        for request in dict.fromkeys([*shares, *(row.request for row in batch.rows)]):
            if request in self.requests:
                self.requests.remove(request)
                self._on_finished(request, None, error)
        batch.clear()


def is_running(request: SamplingRequest, batch: RunningBatch) -> bool:
    """Return whether a running batch is the one for the rows of a request."""
    return request.padded == (batch.padded_rows is not None)


def _preview_of(request: SamplingRequest, batch: RunningBatch) -> Tensor:
    """Return the current preview of a request's samples, (n, *shape) int32, −1 where undecided."""
    stepper, going = request.chain.stepper, {row.index: row for row in request.started_rows}
    here = {row.index: image for row, image in batch.previews() if row.request is request}
    parked = {i: stepper.preview(row.state)[0].cpu() for i, row in going.items() if row.state is not None}
    ended = [] if request.samples is None else [i for i in range(request.begun) if i not in going]
    known = {**{i: request.samples[i] for i in ended if request.samples is not None}, **here, **parked}
    shown = torch.full((request.n, *next(iter(known.values())).shape), -1, dtype=torch.int32)
    for index, sample in known.items():
        shown[index] = sample.int()
    return without_inference_mode(shown)
