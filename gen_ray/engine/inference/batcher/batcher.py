"""The loop: take in what is asked, choose who goes along, one tick, hand over what is done. A thread of its own."""

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
from gen_ray.engine.training.step import autocast
from gen_ray.family import Chain, Known

T = TypeVar("T")
FIXED_ROWS = 8
"""Rows of every padded forward: what is deterministic costs at most that of a batch of so many."""


class Batcher:
    """Serves requests on one model until it is closed. Every method may be called from any thread."""

    def __init__(
        self,
        model: Model,
        costs: LatencyProfile,
        device: torch.device,
        *,
        backlog_seconds: float = 30.0,
        threads: int = 1,
    ) -> None:
        """Refuse work before which more than backlog_seconds would come; threads is torch's number in the loop."""
        self.model, self.costs, self.device = model, costs, device
        self.ledger = AdmissionControl(costs, backlog_seconds)
        self._inbox: queue.SimpleQueue[SamplingRequest | NetCall | GradientTurn | None] = queue.SimpleQueue()
        self._queue = FairQueue()
        self._turns = GradientTurns()
        self._walking = Scheduler(device, FIXED_ROWS, self._settle)
        self._calls: list[NetCall] = []
        self._guests = ThreadPoolExecutor(MOST_IN_ALL, thread_name_prefix="guest")  # a thread for each
        self._thread = threading.Thread(target=self._live, args=(threads,), name="batcher", daemon=True)
        self._thread.start()

    @property
    def well(self) -> bool:
        """Return whether the loop lives and its ticks do not keep raising."""
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
        """Ask for samples 0 … n−1 of a seed along a chain, as generate gives them; the ticket's result is (n, *shape).

        fixed pads every forward to FIXED_ROWS, so that bits do not depend on the company. deadline is on the clock of
        time.monotonic. watch is called as many times as looks says, in the batcher's thread. key is the name of the
        API key that asks: keys share the time equally. Raise BusyError.
        """
        asked = SamplingRequest(
            chain, n, seed=seed, held=held, fixed=fixed, ticket=RequestHandle(deadline, key), watch=watch, looks=looks
        )
        self.ledger.admit(asked.ticket, asked.total)
        self._inbox.put(asked)
        return asked.ticket

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
        """Have work(net) done in a guest's thread, its calls of the net by the batcher; about so many rows × calls.

        reduced asks the net in the model's reduced precision, as samples are drawn. Raise BusyError.
        """
        ticket = RequestHandle(deadline, key)
        net = BatchedNetProxy(self.model.net, ticket, self._inbox.put, reduced=reduced, fixed=fixed)
        self.ledger.admit(ticket, evaluations)
        self._guests.submit(self._host, work, net, ticket)
        return ticket

    def close(self, *, drain: bool = True) -> None:
        """Take nothing new, finish what was asked or give it up, and return when nothing is left."""
        self.ledger.close(give_up=not drain)
        self._inbox.put(None)
        self._guests.shutdown()
        self._inbox.put(None)
        self._thread.join()

    def _host(self, work: Callable[[Any], T], net: BatchedNetProxy, ticket: RequestHandle) -> None:
        """Do a guest's work in its thread; its evaluations are counted off when it ends, however many they were."""
        try:
            if obstacle := ticket.cancel_reason:
                raise obstacle
            found = work(net)
        except Exception as error:
            net.end_turn()
            self.ledger.leave(ticket)
            ticket.end(error=memory_error(error, self.device))
        else:
            net.end_turn()
            self.ledger.leave(ticket)
            ticket.end(found)

    def _settle(self, walk: SamplingRequest, samples: Tensor | None, error: Exception | None) -> None:
        self.ledger.leave(walk.ticket)
        walk.ticket.end(samples, error)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _live(self, threads: int) -> None:
        torch.set_num_threads(threads)
        net = BatchingNet(self.model.net)
        with autocast(self.model.experiment.training.precision, self.device):
            while self._take_in():
                self._let_go()
                self._tick(net)

    def _take_in(self) -> bool:
        """Take in what is asked, waiting where there is nothing to do; return whether to go on."""
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
                    self._take_turn(item)
                item = self._inbox.get_nowait()
        return True

    def _take_turn(self, turn: GradientTurn) -> None:
        if not turn.ended:
            self._turns.waiting.append(turn)
            return
        self._queue.charge([turn.ticket], self._turns.end())
        self.ledger.did({turn.ticket: turn.rows})

    def _let_go(self) -> None:
        """Drop the walks, calls and turns that were cancelled or are late."""
        for walk in list(self._walking.walks):
            if obstacle := walk.ticket.cancel_reason:
                self._walking.drop(walk, obstacle)
        for call in list(self._calls):
            if obstacle := call.ticket.cancel_reason:
                self._calls.remove(call)
                call.answer.set_exception(obstacle)
        self._turns.drop()

    def _tick(self, net: BatchingNet) -> None:
        """Grant a turn if one is due, and serve walks and calls."""
        waiting: list[SamplingRequest | NetCall | GradientTurn] = [
            *self._walking.walks,
            *self._calls,
            *self._turns.waiting,
        ]
        everything = self._queue.ordered(waiting)
        if everything and isinstance(everything[0], GradientTurn) and self._turns.can_grant:
            self._turns.grant(everything[0])
        first = next((one for one in everything if isinstance(one, SamplingRequest)), None)
        cohort = self._walking.cohort(first)
        asking = [
            one
            for one in everything
            if isinstance(one, NetCall) or (isinstance(one, SamplingRequest) and is_running(one, cohort))
        ]
        if not asking:
            return
        wanted = [one.wanted for one in asking]
        room = min(fair_shares.batch_size(wanted, self.costs), cohort.fixed or self.costs.best)
        rows = fair_shares.max_min_shares_by_key([one.ticket.key for one in asking], wanted, room)
        given = {one: count for one, count in zip(asking, rows, strict=True) if count}
        began = time.perf_counter()
        self._forward(net, cohort, given)
        seconds = time.perf_counter() - began
        self._queue.charge([one.ticket for one in given], self._turns.own_part(seconds))
        self.ledger.tick(sum(rows), room, cohort.fixed, seconds)

    def _forward(self, net: BatchingNet, cohort: RunningBatch, given: Mapping[SamplingRequest | NetCall, int]) -> None:
        """Advance the given number of rows of each walk, and serve that of each call."""
        riders = [(call, rows) for call, rows in given.items() if isinstance(call, NetCall)]
        walks = {walk: rows for walk, rows in given.items() if isinstance(walk, SamplingRequest)}
        net.riders = [] if cohort.fixed else riders
        if walks:
            self._step(net, cohort, walks)
        self._serve(riders if cohort.fixed else net.riders)
        self.ledger.did({call.ticket: rows for call, rows in riders})

    def _step(self, net: BatchingNet, cohort: RunningBatch, walks: dict[SamplingRequest, int]) -> None:
        try:
            self._walking.step(cohort, walks, net)
            self.ledger.sound()
            self.ledger.did({walk.ticket: rows for walk, rows in walks.items()})
        except Exception as error:  # of the net or the machine: who went along is told, the others go on
            self.ledger.fault()
            self._walking.drop_all(cohort, walks, memory_error(error, self.device))

    def _serve(self, riders: list[tuple[NetCall, int]]) -> None:
        """Serve the calls that did not fit into the walks' forward."""
        try:
            serve(self.model.net, riders, device_type=self.device.type, fixed=FIXED_ROWS)
        except Exception as error:
            self.ledger.fault()
            for call, _ in riders:
                if not call.answer.done():
                    call.answer.set_exception(error)
        self._calls = [call for call in self._calls if not call.answer.done()]
