"""The walks of a batcher: their rows in the next tick, their previews, and their ends."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from gen_ray.engine.inference.batcher.batched_net import BatchingNet, without_inference_mode
from gen_ray.engine.inference.batcher.errors import NotFiniteError
from gen_ray.engine.inference.batcher.requests import Preview, SampleRow, SamplingRequest
from gen_ray.engine.inference.batcher.running_batch import RunningBatch

OnFinished = Callable[[SamplingRequest, Tensor | None, Exception | None], None]
"""(walk, its samples, or what went wrong): it is no longer here."""


class Scheduler:
    """All walks under way. Those whose forwards are padded have separate ticks."""

    def __init__(self, device: torch.device, fixed_rows: int, settle: OnFinished) -> None:
        """Whatever becomes of a walk goes to settle."""
        self.walks: list[SamplingRequest] = []
        self._settle = settle
        self._cohorts = {False: RunningBatch(device), True: RunningBatch(device, fixed=fixed_rows)}

    def cohort(self, first: SamplingRequest | None) -> RunningBatch:
        """Return the cohort for the rows of a walk."""
        return self._cohorts[first is not None and first.fixed]

    def step(self, cohort: RunningBatch, given: Mapping[SamplingRequest, int], net: BatchingNet) -> None:
        """Advance so many rows of each walk by one evaluation."""
        cohort.set_rows([row for walk, rows in given.items() for row in walk.next_rows(rows)])
        for walk in given:
            walk.ticket.begin()
        cohort.tick(net)
        looking = [walk for walk, rows in given.items() if walk.advance(rows)]
        for arrived, samples, finite in cohort.pop_finished():
            self._arrived(arrived, samples, finite)
        for walk in looking:
            if walk in self.walks and walk.watch is not None:
                walk.watch(Preview(walk.done, walk.total, _preview_of(walk, cohort)))

    def _arrived(self, rows: list[SampleRow], samples: Tensor, finite: bool) -> None:
        walk = rows[0].walk
        if walk not in self.walks:
            return
        if not finite:
            self.drop(walk, NotFiniteError("the net's output is not finite"))
            return
        walk.take_samples(rows, without_inference_mode(samples))
        if not walk.wanted:
            self.walks.remove(walk)
            self._settle(walk, walk.samples, None)

    def drop(self, walk: SamplingRequest, error: Exception) -> None:
        """Let a walk and its rows go."""
        cohort = self._cohorts[walk.fixed]
        cohort.set_rows([row for row in cohort.rows if row.walk is not walk])
        self.walks.remove(walk)
        self._settle(walk, None, error)

    def drop_all(self, cohort: RunningBatch, given: Iterable[SamplingRequest], error: Exception) -> None:
        """Let go whoever had, or was to have, a row in a tick that raised: nobody knows in what state they are."""
        for walk in dict.fromkeys([*given, *(row.walk for row in cohort.rows)]):
            if walk in self.walks:
                self.walks.remove(walk)
                self._settle(walk, None, error)
        cohort.clear()


def is_running(walk: SamplingRequest, cohort: RunningBatch) -> bool:
    """Return whether a cohort has the rows of a walk."""
    return walk.fixed == (cohort.fixed is not None)


def _preview_of(walk: SamplingRequest, cohort: RunningBatch) -> Tensor:
    """Return what a walk's samples look like now, (n, *shape) int32; −1 where nothing is decided."""
    kernel, going = walk.chain.kernel, {row.index: row for row in walk.going}
    here = {row.index: image for row, image in cohort.look() if row.walk is walk}
    parked = {i: kernel.preview(row.state)[0].cpu() for i, row in going.items() if row.state is not None}
    ended = [] if walk.samples is None else [i for i in range(walk.begun) if i not in going]
    known = {**{i: walk.samples[i] for i in ended if walk.samples is not None}, **here, **parked}
    shown = torch.full((walk.n, *next(iter(known.values())).shape), -1, dtype=torch.int32)
    for index, sample in known.items():
        shown[index] = sample.int()
    return without_inference_mode(shown)
