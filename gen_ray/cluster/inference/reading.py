"""The reader of blocks for workers on any machine. Free of torch, which takes seconds to import."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import ray

from gen_ray.engine.inference.rows.blocks import Blocks, RowRange
from gen_ray.errors import RunError, argument

ATTEMPTS = 5
"""Workers that may be lost with the same block, before the command ends with an error."""


class BlockReader:
    """Blocks by number, each for the worker that asks for it.

    The workers ask in order, apart from those that work at the same time, so that memory holds few blocks, however
    large the file is. Only a lost worker's block is asked for again: one more pass over the file finds it. ``job`` is
    what a worker needs in addition. A worker asks for it, because Ray warns of large arguments of its actors.
    """

    def __init__(self, blocks: Blocks, skip: Collection[int], job: Any = None) -> None:
        """Start before the first block that is not in skip."""
        self.blocks, self.source, self.job = blocks, blocks.read(skip), job
        self.waiting: dict[int, RowRange] = {}
        self.last = -1
        self.lost = Counter[int]()

    def get_job(self) -> Any:
        """Return what a worker needs."""
        return self.job

    def block(self, index: int) -> RowRange:
        """Return a block. Raise RunError if its workers were lost repeatedly, or the file has lost it."""
        if index in self.waiting:
            return self.waiting.pop(index)
        if index > self.last:
            return self._found(index, self.source)
        self.lost[index] += 1
        if self.lost[index] >= ATTEMPTS:
            raise RunError(
                f"block {index}: {ATTEMPTS} workers died while they computed it, perhaps because memory is full; "
                f"the same command continues, with fewer {argument('workers')} or on larger machines"
            )
        return self._found(index, self.blocks.read(frozenset(range(len(self.blocks))) - {index}))

    def _found(self, index: int, source: Iterator[RowRange]) -> RowRange:
        for block in source:
            self.last = max(self.last, block.index)
            if block.index == index:
                return block
            self.waiting[block.index] = block
        raise RunError(f"block {index} of {len(self.blocks)} is gone: the file was changed; repeat the command")


RemoteReader = ray.remote(num_cpus=0)(BlockReader)
