"""The interface between a task, which computes blocks of rows, and what runs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows.blocks import RowRange
from gen_ray.engine.inference.rows.files import FileContent

Block = TypeVar("Block", bound=RowRange, contravariant=True)


@dataclass(frozen=True)
class BlockResult:
    """The files of one block of rows by name, and statistics that JSON can hold."""

    index: int
    rows: int
    files: Mapping[str, FileContent]
    statistics: Mapping[str, Any] = field(default_factory=dict)


class RowTask(Protocol, Generic[Block]):
    """The computation of one block's files. It is a function of the block, so that any process may do it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return everything but the input that the files depend on, as JSON can hold it."""
        ...

    def run(self, model: Model, device: torch.device, block: Block) -> BlockResult:
        """Return the files of a block."""
        ...
