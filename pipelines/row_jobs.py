"""A command that computes a file of rows: its blocks, resumption, workers and progress."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_ray.errors import listed
from gen_ray.storage.paths import is_remote
from gen_ray.storage.user_paths import local
from pipelines import instances, terminal
from pipelines.csv_format import CsvFormat
from pipelines.progress import VerbProgress

if TYPE_CHECKING:
    from gen_ray.engine.inference.artifact import Model
    from gen_ray.engine.inference.rows.blocks import Blocks, FileBlocks
    from gen_ray.engine.inference.rows.parts import Parts
    from gen_ray.engine.inference.rows.results import BlockResult, RowTask

RAY_SECONDS = 30.0
"""Seconds of work from which on more processes save more time than Ray and its workers need to start."""

Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=100_000,
        help="Processes that compute on Ray; 0: this process only. The output does not depend on it. Default: this "
        "process for a single block, or if the rest takes less than 30 s after the first ones; else, and always with "
        "RAY_ADDRESS, one per core or GPU of the cluster.",
    ),
]


SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class Output:
    """A .csv or .parquet file, or a folder of Parquet files."""

    path: Path
    is_folder: bool

    @property
    def suffix(self) -> str:
        """Return the suffix of the files."""
        return ".parquet" if self.is_folder else self.path.suffix

    @classmethod
    def parse(cls, out: str, data: Path | None = None) -> "Output":
        """Return the output of a path or URI, for a command on data. Raise UserError."""
        from gen_ray.storage.paths import resolve

        if is_folder(out):
            made = cls(resolve(out), True)
        else:
            terminal.one_of("--out must be a folder (DIR/), or end in", Path(out).suffix, SUFFIXES)
            made = cls(local(out), False)
        made.check(data)
        return made

    @classmethod
    def beside(cls, out: str | None, data: Path, default: str) -> "Output":
        """Return the output of a command on data, by default a file beside it. Raise UserError."""
        from gen_ray.tabular.text_streams import COMPRESSIONS

        stem = data.name.removesuffix(data.suffix) if data.suffix in COMPRESSIONS else data.name
        return cls.parse(out or str(data.with_name(f"{stem if data.is_dir() else Path(stem).stem}-{default}")), data)

    def check(self, data: Path | None, name: str = "out") -> None:
        """Raise UserError if it is the input, or a file that the result could not replace: a folder, pipe or device."""
        from gen_ray.errors import UserError

        if is_remote(self.path):
            return
        if data is not None and self.path.resolve() == data.resolve():
            raise UserError(f"--{name}={self.path}: is the input itself; name another file or folder")
        if not self.is_folder and self.path.exists() and not self.path.is_file():
            fault = "is not a regular file, which the result could replace; name another one"
            raise UserError(f"--{name}={self.path}: {fault}")


def is_folder(out: str) -> bool:
    """Return whether an output is a folder or a prefix on an object store, not a file."""
    return "://" in out or out.endswith("/") or (Path(out).is_dir() and Path(out).suffix not in SUFFIXES)


@dataclass(frozen=True)
class FileJob:
    """A task over blocks whose result is one or more files, or a folder of Parquet files."""

    verb: str
    model: "Model"
    task: "RowTask[Any]"
    blocks: "Blocks"
    outputs: Mapping[str, Path]
    is_folder: bool = False

    def run(self, workers: int | None) -> list[Mapping[str, Any]]:
        """Write the outputs, and return the statistics of all blocks. A repeated command continues an ended one."""
        from gen_ray.engine.inference.rows.parts import Parts

        parts, started = Parts(self.outputs, self.is_folder, self._settings()), time.perf_counter()
        with parts.opened():
            if parts.finished:
                typer.echo(f"continues: {len(parts.finished)} of {len(self.blocks)} blocks are done", err=True)
            before = sum(record["rows"] for record in parts.finished.values())
            self._compute(parts, workers)
            self.blocks.check_unchanged()
            parts.complete()
        seconds = time.perf_counter() - started
        speed = f"{(self.blocks.rows - before) / max(seconds, 1e-9):,.0f} rows/s"
        names = ", ".join(str(out) for out in self.outputs.values())
        typer.echo(f"{names}: {self.blocks.rows:,} rows, {seconds:.1f} s, {speed}")
        return [parts.finished[index]["statistics"] for index in sorted(parts.finished)]

    def _compute(self, parts: "Parts", workers: int | None) -> None:
        with VerbProgress(self.verb) as progress:
            for result in self._results(parts, workers):
                parts.add(result)
                progress(len(parts.finished), len(self.blocks), {})

    def _results(self, parts: "Parts", workers: int | None) -> "Iterator[BlockResult]":
        """Yield the results of the blocks that are not finished.

        By default this process computes until it is clear that the rest takes longer than a start of Ray.
        """
        from gen_ray.engine.inference.rows.run import run_here

        if len(parts.finished) == len(self.blocks):
            return
        if not workers and not self._starts_on_cluster(parts, workers):
            started, before = time.perf_counter(), len(parts.finished)
            for result in run_here(self.model, self.task, self.blocks, frozenset(parts.finished), instances.device()):
                yield result
                left = len(self.blocks) - len(parts.finished)
                seconds = (time.perf_counter() - started) / (len(parts.finished) - before) * left
                if workers is None and left > 1 and seconds > RAY_SECONDS and _processors() > 1:
                    break
            else:
                return
        from gen_ray.cluster.inference.stream import run_on_cluster  # imports Ray

        self.model.net.cpu()
        yield from run_on_cluster(self.model, self.task, self.blocks, frozenset(parts.finished), workers)

    def _starts_on_cluster(self, parts: "Parts", workers: int | None) -> bool:
        several = len(self.blocks) - len(parts.finished) > 1
        return workers is None and several and "RAY_ADDRESS" in os.environ

    def _settings(self) -> dict[str, Any]:
        """Return everything that the output depends on, as JSON can hold it."""
        about = {"verb": self.verb, "model": self.model.digest, "rows": self.blocks.rows, "blocks": len(self.blocks)}
        return {**about, **self.blocks.source, **self.task.settings}


def _processors() -> int:
    """Return the number of GPUs of this machine, or else of its cores."""
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1


def open_file(path: Path, model: "Model", csv: CsvFormat) -> "FileBlocks":
    """Return the blocks of a file of rows, and print columns that it lacks, or has in addition. Raise UserError."""
    from gen_ray.engine.inference.rows.blocks import inspect, stamp_of
    from gen_ray.errors import UserError, nearest

    spec = model.spec
    if not spec.is_table:
        raise UserError(f"--data: needs a model of tables; {spec.name} holds {spec.kind}")
    stamp_of(path)  # raises for anything but a file, before it is read
    blocks = inspect(path, spec.columns, csv.options(path, model))
    used = {column.name for column in spec.columns}
    if len(blocks.absent) == len(used):
        raise UserError(f"{path}: has none of the model's columns; {nearest(blocks.absent[0], blocks.names)}")
    if blocks.absent:
        typer.echo(f"{path}: lacks {listed(blocks.absent)}; all their values are missing", err=True)
    if others := [name for name in blocks.names if name not in used]:
        typer.echo(f"{path}: {listed(others)}: not used by the model, passed through", err=True)
    return blocks
