"""The batcher: a thread that accepts requests, selects the rows of the next batch, evaluates and returns results."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import fair_shares
from gen_ray.engine.inference.batcher.admission_control import MAX_REQUESTS, AdmissionControl
from gen_ray.engine.inference.batcher.batched_net import (
    BatchedNetProxy,
    BatchingNet,
    GradientTurn,
    NetCall,
    batching_net,
    serve_calls,
)
from gen_ray.engine.inference.batcher.errors import memory_error
from gen_ray.engine.inference.batcher.fair_queue import FairQueue
from gen_ray.engine.inference.batcher.gradient_turns import GradientTurns
from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile
from gen_ray.engine.inference.batcher.requests import OnPreview, RequestHandle, SamplingRequest
from gen_ray.engine.inference.batcher.running_batch import RunningBatch
from gen_ray.engine.inference.batcher.scheduler import Scheduler, is_running
from gen_ray.engine.inference.precision import autocast
from gen_ray.maths.chain import Chain, Known

T = TypeVar("T")
PADDED_ROWS = 8
"""Rows of every padded forward. A deterministic request costs at most as much as a batch of this size."""


class Batcher:
    """Serves requests on one model until it is closed. All methods are thread-safe."""

    def __init__(
        self,
        model: Model,
        profile: LatencyProfile,
        device: torch.device,
        *,
        backlog_seconds: float = 30.0,
        threads: int = 1,
    ) -> None:
        """Start the thread.

        Requests that would wait for more than backlog_seconds are refused; threads is torch's thread count in the loop.
        """
        self.model, self.profile, self.device = model, profile, device
        self.admission = AdmissionControl(profile, backlog_seconds)
        self._inbox: queue.SimpleQueue[SamplingRequest | NetCall | GradientTurn | None] = queue.SimpleQueue()
        self._queue = FairQueue()
        self._turns = GradientTurns()
        self._scheduler = Scheduler(device, PADDED_ROWS, self._end_request)
        self._calls: list[NetCall] = []
        self._task_threads = ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="task")  # a thread per task
        self._thread = threading.Thread(target=self._run, args=(threads,), name="batcher", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Return whether the loop is running and its evaluations do not keep raising."""
        return self._thread.is_alive() and self.admission.healthy

    def submit(
        self,
        chain: Chain,
        n: int,
        *,
        seed: int,
        known: Known | None = None,
        padded: bool = False,
        deadline: float | None = None,
        on_preview: OnPreview | None = None,
        previews: int = 0,
        key: str = "",
    ) -> RequestHandle:
        """Submit a request for samples 0 … n−1 of a seed along a chain, as generate draws them: result (n, *shape).

        known (n, …) are values to keep. With padded, every forward is padded to PADDED_ROWS, so that bits do not depend
        on other requests. deadline is a time of time.monotonic. on_preview is called in the batcher's thread, as often
        as previews says. key is the name of the API key of the request; keys share the time equally. Raise BusyError.
        """
        request = SamplingRequest(
            chain,
            n,
            seed=seed,
            known=known,
            padded=padded,
            handle=RequestHandle(deadline, key),
            on_preview=on_preview,
            previews=previews,
        )
        self.admission.admit(request.handle, request.total)
        self._inbox.put(request)
        return request.handle

    def submit_callable(
        self,
        work: Callable[[Any], T],
        evaluations: int,
        *,
        reduced_precision: bool = False,
        padded: bool = False,
        deadline: float | None = None,
        key: str = "",
    ) -> RequestHandle:
        """Run work(net) as an auxiliary task in a separate thread; the batcher evaluates the network calls.

        evaluations is the estimated work, rows × calls. With reduced_precision, the network is evaluated in the
        model's reduced precision, as for samples; with padded, in forwards of PADDED_ROWS. The result is that of work.
        Raise BusyError.
        """
        handle = RequestHandle(deadline, key)
        net = BatchedNetProxy(
            self.model.net, handle, self._inbox.put, reduced_precision=reduced_precision, padded=padded
        )
        self.admission.admit(handle, evaluations)
        self._task_threads.submit(self._run_task, work, net, handle)
        return handle

    def close(self, *, drain: bool = True) -> None:
        """Refuse new requests, finish the submitted ones (without drain, cancel them), and return when none is left."""
        self.admission.close(cancel=not drain)
        self._inbox.put(None)
        self._task_threads.shutdown()
        self._inbox.put(None)
        self._thread.join()

    def _run_task(self, work: Callable[[Any], T], net: BatchedNetProxy, handle: RequestHandle) -> None:
        """Run an auxiliary task in its thread; its estimated work is removed from the backlog when it ends."""
        try:
            if reason := handle.cancel_reason:
                raise reason
            result = work(net)
        except Exception as error:
            net.end_turn()
            self.admission.release(handle)
            handle.end(error=memory_error(error, self.device))
        else:
            net.end_turn()
            self.admission.release(handle)
            handle.end(result)

    def _end_request(self, request: SamplingRequest, samples: Tensor | None, error: Exception | None) -> None:
        self.admission.release(request.handle)
        request.handle.end(samples, error)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        net = batching_net(self.model.net)
        with autocast(self.model.experiment.training.precision, self.device):
            while self._accept():
                self._drop_cancelled()
                self._tick(net)

    def _accept(self) -> bool:
        """Accept submitted requests, and wait for one while there is nothing to do; return whether to continue."""
        idle = not self._scheduler.requests and not self._calls and not self._turns.can_grant
        if idle and self.admission.closed_and_empty:
            return False
        with suppress(queue.Empty):
            item = self._inbox.get(block=idle)
            while True:
                if isinstance(item, SamplingRequest):
                    self._scheduler.requests.append(item)
                elif isinstance(item, NetCall):
                    self._calls.append(item)
                elif isinstance(item, GradientTurn):
                    self._queue_turn(item)
                item = self._inbox.get_nowait()
        return True

    def _queue_turn(self, turn: GradientTurn) -> None:
        if not turn.ended:
            self._turns.waiting.append(turn)
            return
        self._queue.charge([turn.handle], self._turns.end())
        self.admission.subtract({turn.handle: turn.rows})

    def _drop_cancelled(self) -> None:
        """Drop the requests, network calls and gradient turns that were cancelled or whose deadline has passed."""
        for request in list(self._scheduler.requests):
            if reason := request.handle.cancel_reason:
                self._scheduler.drop(request, reason)
        for call in list(self._calls):
            if reason := call.handle.cancel_reason:
                self._calls.remove(call)
                call.output.set_exception(reason)
        self._turns.drop_cancelled()

    def _tick(self, net: BatchingNet) -> None:
        """Grant a gradient turn if one is due, and evaluate the next batch."""
        waiting: list[SamplingRequest | NetCall | GradientTurn] = [
            *self._scheduler.requests,
            *self._calls,
            *self._turns.waiting,
        ]
        ordered = self._queue.ordered(waiting)
        if ordered and isinstance(ordered[0], GradientTurn) and self._turns.can_grant:
            self._turns.grant(ordered[0])
        first = next((item for item in ordered if isinstance(item, SamplingRequest)), None)
        batch = self._scheduler.batch_for(first)
        candidates = [
            item
            for item in ordered
            if isinstance(item, NetCall) or (isinstance(item, SamplingRequest) and is_running(item, batch))
        ]
        if not candidates:
            return
        rows_left = [item.rows_left for item in candidates]
        possible_rows = min(
            fair_shares.batch_size(rows_left, self.profile), batch.padded_rows or self.profile.best_rows
        )
        rows = fair_shares.max_min_shares_by_key([item.handle.key for item in candidates], rows_left, possible_rows)
        chosen = {item: count for item, count in zip(candidates, rows, strict=True) if count}
        began = time.perf_counter()
        self._forward(net, batch, chosen)
        seconds = time.perf_counter() - began
        self._queue.charge([item.handle for item in chosen], self._turns.charged_seconds(seconds))
        self.admission.record_batch(sum(rows), possible_rows, batch.padded_rows, seconds)

    def _forward(self, net: BatchingNet, batch: RunningBatch, chosen: Mapping[SamplingRequest | NetCall, int]) -> None:
        """Advance the given number of rows of each sampling request and of each network call."""
        joined = [(call, rows) for call, rows in chosen.items() if isinstance(call, NetCall)]
        requests = {request: rows for request, rows in chosen.items() if isinstance(request, SamplingRequest)}
        net.joined, net.padded_rows = [] if batch.padded_rows else joined, batch.padded_rows
        if requests:
            self._step(net, batch, requests)
        self._serve(joined if batch.padded_rows else net.joined)
        self.admission.subtract({call.handle: rows for call, rows in joined})

    def _step(self, net: BatchingNet, batch: RunningBatch, requests: dict[SamplingRequest, int]) -> None:
        try:
            self._scheduler.step(batch, requests, net)
            self.admission.record_success()
            self.admission.subtract({request.handle: rows for request, rows in requests.items()})
        except Exception as error:  # affects the requests of this batch only; the others continue
            self.admission.record_error()
            self._scheduler.drop_all(batch, requests, memory_error(error, self.device))

    def _serve(self, joined: list[tuple[NetCall, int]]) -> None:
        """Serve the network calls that did not fit into the forward of the sampling requests."""
        try:
            serve_calls(self.model.net, joined, device_type=self.device.type, padded_rows=PADDED_ROWS)
        except Exception as error:
            self.admission.record_error()
            for call, _ in joined:
                if not call.output.done():
                    call.output.set_exception(error)
        self._calls = [call for call in self._calls if not call.output.done()]
