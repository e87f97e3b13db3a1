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
from gen_ray.engine.inference.batcher.admission_control import MOST_IN_ALL, AdmissionControl
from gen_ray.engine.inference.batcher.auxiliary_tasks import GradientTurns
from gen_ray.engine.inference.batcher.batched_net import BatchedNetProxy, BatchingNet, GradientTurn, NetCall, serve
from gen_ray.engine.inference.batcher.errors import memory_error
from gen_ray.engine.inference.batcher.fair_queue import FairQueue
from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile
from gen_ray.engine.inference.batcher.requests import OnPreview, RequestHandle, SamplingRequest
from gen_ray.engine.inference.batcher.running_batch import RunningBatch
from gen_ray.engine.inference.batcher.scheduler import Scheduler, is_running
from gen_ray.engine.inference.precision import autocast
from gen_ray.family import Chain, Known

T = TypeVar("T")
FIXED_ROWS = 8
"""Rows of every padded forward. A deterministic request costs at most as much as a batch of this size."""


class Batcher:
    """Serves requests on one model until it is closed. All methods are thread-safe."""

    def __init__(
        self,
        model: Model,
        costs: LatencyProfile,
        device: torch.device,
        *,
        backlog_seconds: float = 30.0,
        threads: int = 1,
    ) -> None:
        """Start the thread.

        Requests that would wait for more than backlog_seconds are refused; threads is torch's thread count in the loop.
        """
        self.model, self.costs, self.device = model, costs, device
        self.ledger = AdmissionControl(costs, backlog_seconds)
        self._inbox: queue.SimpleQueue[SamplingRequest | NetCall | GradientTurn | None] = queue.SimpleQueue()
        self._queue = FairQueue()
        self._turns = GradientTurns()
        self._walking = Scheduler(device, FIXED_ROWS, self._settle)
        self._calls: list[NetCall] = []
        self._task_threads = ThreadPoolExecutor(MOST_IN_ALL, thread_name_prefix="task")  # a thread per task
        self._thread = threading.Thread(target=self._run, args=(threads,), name="batcher", daemon=True)
        self._thread.start()

    @property
    def well(self) -> bool:
        """Return whether the loop is running and its evaluations do not keep raising."""
        return self._thread.is_alive() and self.ledger.well

    def walk(
        self,
        chain: Chain,
        n: int,
        *,
        seed: int,
        held: Known | None = None,
        fixed: bool = False,
        deadline: float | None = None,
        watch: OnPreview | None = None,
        looks: int = 0,
        key: str = "",
    ) -> RequestHandle:
        """Submit a request for samples 0 … n−1 of a seed along a chain, as generate draws them: result (n, *shape).

        held (n, …) are known values to keep. fixed pads every forward to FIXED_ROWS, so that bits do not depend on
        other requests. deadline is a time of time.monotonic. watch is called with looks previews, in the batcher's
        thread. key is the name of the API key of the request; keys share the time equally. Raise BusyError.
        """
        request = SamplingRequest(
            chain, n, seed=seed, held=held, fixed=fixed, ticket=RequestHandle(deadline, key), watch=watch, looks=looks
        )
        self.ledger.admit(request.ticket, request.total)
        self._inbox.put(request)
        return request.ticket

    def submit_callable(
        self,
        work: Callable[[Any], T],
        evaluations: int,
        *,
        reduced: bool = False,
        fixed: bool = False,
        deadline: float | None = None,
        key: str = "",
    ) -> RequestHandle:
        """Run work(net) as an auxiliary task in a separate thread; the batcher evaluates the network calls.

        evaluations is the estimated work, rows × calls. reduced evaluates the network in the model's reduced precision,
        as samples are drawn; fixed pads forwards to FIXED_ROWS. The result is that of work. Raise BusyError.
        """
        handle = RequestHandle(deadline, key)
        net = BatchedNetProxy(self.model.net, handle, self._inbox.put, reduced=reduced, fixed=fixed)
        self.ledger.admit(handle, evaluations)
        self._task_threads.submit(self._run_task, work, net, handle)
        return handle

    def close(self, *, drain: bool = True) -> None:
        """Refuse new requests, finish the submitted ones (without drain, cancel them), and return when none is left."""
        self.ledger.close(give_up=not drain)
        self._inbox.put(None)
        self._task_threads.shutdown()
        self._inbox.put(None)
        self._thread.join()

    def _run_task(self, work: Callable[[Any], T], net: BatchedNetProxy, handle: RequestHandle) -> None:
        """Run an auxiliary task in its thread; its estimated work is removed from the backlog when it ends."""
        try:
            if reason := handle.cancel_reason:
                raise reason
            found = work(net)
        except Exception as error:
            net.end_turn()
            self.ledger.leave(handle)
            handle.end(error=memory_error(error, self.device))
        else:
            net.end_turn()
            self.ledger.leave(handle)
            handle.end(found)

    def _settle(self, request: SamplingRequest, samples: Tensor | None, error: Exception | None) -> None:
        self.ledger.leave(request.ticket)
        request.ticket.end(samples, error)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        net = BatchingNet(self.model.net)
        with autocast(self.model.experiment.training.precision, self.device):
            while self._accept():
                self._drop_cancelled()
                self._tick(net)

    def _accept(self) -> bool:
        """Accept submitted requests, and wait for one while there is nothing to do; return whether to continue."""
        idle = not self._walking.walks and not self._calls and not self._turns.can_grant
        if idle and self.ledger.closed_and_empty:
            return False
        with suppress(queue.Empty):
            item = self._inbox.get(block=idle)
            while True:
                if isinstance(item, SamplingRequest):
                    self._walking.walks.append(item)
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
        self._queue.charge([turn.ticket], self._turns.end())
        self.ledger.did({turn.ticket: turn.rows})

    def _drop_cancelled(self) -> None:
        """Drop the requests, network calls and gradient turns that were cancelled or whose deadline has passed."""
        for request in list(self._walking.walks):
            if reason := request.ticket.cancel_reason:
                self._walking.drop(request, reason)
        for call in list(self._calls):
            if reason := call.ticket.cancel_reason:
                self._calls.remove(call)
                call.answer.set_exception(reason)
        self._turns.drop()

    def _tick(self, net: BatchingNet) -> None:
        """Grant a gradient turn if one is due, and evaluate the next batch."""
        waiting: list[SamplingRequest | NetCall | GradientTurn] = [
            *self._walking.walks,
            *self._calls,
            *self._turns.waiting,
        ]
        everything = self._queue.ordered(waiting)
        if everything and isinstance(everything[0], GradientTurn) and self._turns.can_grant:
            self._turns.grant(everything[0])
        first = next((one for one in everything if isinstance(one, SamplingRequest)), None)
        batch = self._walking.batch_for(first)
        asking = [
            one
            for one in everything
            if isinstance(one, NetCall) or (isinstance(one, SamplingRequest) and is_running(one, batch))
        ]
        if not asking:
            return
        wanted = [one.wanted for one in asking]
        room = min(fair_shares.batch_size(wanted, self.costs), batch.fixed or self.costs.best)
        rows = fair_shares.max_min_shares_by_key([one.ticket.key for one in asking], wanted, room)
        given = {one: count for one, count in zip(asking, rows, strict=True) if count}
        began = time.perf_counter()
        self._forward(net, batch, given)
        seconds = time.perf_counter() - began
        self._queue.charge([one.ticket for one in given], self._turns.own_part(seconds))
        self.ledger.tick(sum(rows), room, batch.fixed, seconds)

    def _forward(self, net: BatchingNet, batch: RunningBatch, given: Mapping[SamplingRequest | NetCall, int]) -> None:
        """Advance the given number of rows of each sampling request and of each network call."""
        joined = [(call, rows) for call, rows in given.items() if isinstance(call, NetCall)]
        requests = {request: rows for request, rows in given.items() if isinstance(request, SamplingRequest)}
        net.riders = [] if batch.fixed else joined
        if requests:
            self._step(net, batch, requests)
        self._serve(joined if batch.fixed else net.riders)
        self.ledger.did({call.ticket: rows for call, rows in joined})

    def _step(self, net: BatchingNet, batch: RunningBatch, requests: dict[SamplingRequest, int]) -> None:
        try:
            self._walking.step(batch, requests, net)
            self.ledger.sound()
            self.ledger.did({request.ticket: rows for request, rows in requests.items()})
        except Exception as error:  # affects the requests of this batch only; the others continue
            self.ledger.fault()
            self._walking.drop_all(batch, requests, memory_error(error, self.device))

    def _serve(self, joined: list[tuple[NetCall, int]]) -> None:
        """Serve the network calls that did not fit into the forward of the sampling requests."""
        try:
            serve(self.model.net, joined, device_type=self.device.type, fixed=FIXED_ROWS)
        except Exception as error:
            self.ledger.fault()
            for call, _ in joined:
                if not call.answer.done():
                    call.answer.set_exception(error)
        self._calls = [call for call in self._calls if not call.answer.done()]
