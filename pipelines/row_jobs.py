"""A command that computes a file of rows: its blocks, resumption and progress."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gen_ray.errors import plain
from pipelines import instances
from pipelines.progress import VerbProgress

if TYPE_CHECKING:
    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.inference.artifact import Model
    from gen_ray.engine.inference.rows.blocks import Blocks, FileBlocks
    from gen_ray.engine.inference.rows.parts import Parts
    from gen_ray.engine.inference.rows.results import BlockResult, RowTask


@dataclass(frozen=True)
class FileJob:
    """A task over blocks whose result is one or more files, or a folder of Parquet files."""

    verb: str
    model: "Model"
    task: "RowTask[Any]"
    blocks: "Blocks"
    outputs: Mapping[str, Path]
    is_folder: bool = False

    def run(self) -> list[Mapping[str, Any]]:
        """Write the outputs, and return the statistics of all blocks. A repeated command continues an ended one."""
        from gen_ray.engine.inference.rows.parts import Parts

        parts, started = Parts(self.outputs, self.is_folder, self._settings()), time.perf_counter()
        with parts.opened():
            if parts.finished:
                typer.echo(f"continues: {len(parts.finished)} of {len(self.blocks)} blocks are done", err=True)
            before = sum(record["rows"] for record in parts.finished.values())
            self._compute(parts)
            self.blocks.check_unchanged()
            parts.complete()
        seconds = time.perf_counter() - started
        speed = f"{(self.blocks.rows - before) / max(seconds, 1e-9):,.0f} rows/s"
        names = ", ".join(str(out) for out in self.outputs.values())
        typer.echo(f"{names}: {self.blocks.rows:,} rows, {seconds:.1f} s, {speed}")
        return [parts.finished[index]["statistics"] for index in sorted(parts.finished)]

    def _compute(self, parts: "Parts") -> None:
        with VerbProgress(self.verb) as progress:
            for result in self._results(frozenset(parts.finished)):
                parts.add(result)
                progress(len(parts.finished), len(self.blocks), {})

    def _results(self, done: frozenset[int]) -> "Iterator[BlockResult]":
        from gen_ray.engine.inference.rows.run import run_here

        if len(done) == len(self.blocks):
            return iter(())
        return run_here(self.model, self.task, self.blocks, done, instances.device())

    def _settings(self) -> dict[str, Any]:
        """Return everything that the output depends on, as JSON can hold it."""
        about = {"verb": self.verb, "model": self.model.digest, "rows": self.blocks.rows, "blocks": len(self.blocks)}
        return {**about, **self.blocks.source, **self.task.settings}


def open_file(path: Path, spec: "DataSpec") -> "FileBlocks":
    """Return the blocks of a file of rows, and print columns that it lacks, or has in addition. Raise UserError."""
    from gen_ray.engine.inference.rows.blocks import inspect
    from gen_ray.errors import UserError, nearest

    if not spec.is_table:
        raise UserError(f"--data: needs a model of tables; {spec.name} holds {spec.kind}")
    blocks = inspect(path, spec.columns)
    used = {column.name for column in spec.columns}
    if len(blocks.absent) == len(used):
        raise UserError(f"{path}: has none of the model's columns; {nearest(blocks.absent[0], blocks.names)}")
    if blocks.absent:
        typer.echo(f"{path}: lacks {listed(blocks.absent)}; all their values are missing", err=True)
    if others := [name for name in blocks.names if name not in used]:
        typer.echo(f"{path}: {listed(others)}: not used by the model, passed through", err=True)
    return blocks


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return the first names of a list, and the number of the others."""
    return ", ".join(map(plain, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
