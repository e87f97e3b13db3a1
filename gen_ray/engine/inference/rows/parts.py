"""The unfinished output of a command: a file for each block, so that a repeated command continues where one ended."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gen_ray.engine.inference.rows.files import PARQUET, assemble
from gen_ray.engine.inference.rows.results import BlockResult
from gen_ray.errors import RunError, UserError, one_line
from gen_ray.storage.paths import as_os_errors, is_remote
from gen_ray.storage.replacement import PARTIAL, hidden_path, replace_folder

JOB, SUCCESS, LOCK = "job.json", "_SUCCESS", "lock"
DRAFT = ".draft"
"""Names of the settings of the command, of the mark of a complete folder, of the lock, and of unfinished files."""


@dataclass
class Parts:
    """The finished blocks of an output, in a hidden folder beside it, or on an object store in the folder itself.

    outputs names the final file of each kind of part, or a folder, which has one kind. job holds everything that the
    content depends on: finished blocks of another job are not used.
    """

    outputs: Mapping[str, Path]
    is_folder: bool
    job: Mapping[str, Any]
    finished: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """The record of each finished block."""

    @property
    def out(self) -> Path:
        """Return the first output."""
        return next(iter(self.outputs.values()))

    @property
    def folder(self) -> Path:
        """Return the folder of the parts."""
        return self.out if is_remote(self.out) else self.out.with_name(f".{self.out.name}.parts")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Find the finished blocks, and exclude other commands that write the same file during the block."""
        if is_remote(self.out):
            with self._errors():
                self._find()
            yield
            return
        lock = FileLock(self.folder / LOCK)
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(f"{self.out}: another command writes it at the moment; wait for its end") from None
        try:
            with self._errors():
                self._find()
            yield
        finally:
            lock.release()

    def add(self, result: BlockResult) -> None:
        """Save the files of a block, then its record."""
        record: dict[str, Any] = {"rows": result.rows, "statistics": dict(result.statistics), "files": {}}
        with self._errors():
            for name, file in result.files.items():
                self._write(self._part(result.index, name), file.content)
                record["files"][name] = {
                    "sha256": sha256(file.content).hexdigest(),
                    "bytes": len(file.content),
                    "header_bytes": file.header_bytes,
                }
            self._write(self._record(result.index), json.dumps(record).encode())
        self.finished[result.index] = record

    def complete(self) -> None:
        """Make the outputs of all blocks, each of them completely or not at all, and remove the parts."""
        with self._errors():
            if not self.is_folder:
                for name, out in self.outputs.items():
                    self._assemble(name, out)
                shutil.rmtree(self.folder)
                return
            for index in self.finished:
                self._record(index).unlink()
            self._write(self.folder / SUCCESS, json.dumps(dict(self.job)).encode())
            (self.folder / JOB).unlink()
            if not is_remote(self.out):
                for file in (self.folder / LOCK, *self._files(f"*{DRAFT}")):
                    file.unlink(missing_ok=True)
                replace_folder(self.folder, self.out)
                shutil.rmtree(self.folder, ignore_errors=True)  # the older folder, if there was one

    def _assemble(self, name: str, out: Path) -> None:
        parts = [self._part(index, name) for index in sorted(self.finished)]
        for index, part in zip(sorted(self.finished), parts, strict=True):
            with part.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != self.finished[index]["files"][name]["sha256"]:
                    self._record(index).unlink()
                    raise RunError(f"{part}: was changed; repeat the command, which computes this block again")
        target = out.resolve()  # a link stays a link
        draft = hidden_path(target, PARTIAL)
        try:
            assemble(parts, self.finished[min(self.finished)]["files"][name]["header_bytes"], draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _part(self, index: int, name: str) -> Path:
        if self.is_folder:
            return self.folder / f"part-{index:05d}{PARQUET}"
        return self.folder / f"{name}-{index:05d}{self.outputs[name].suffix}"

    def _record(self, index: int) -> Path:
        return self.folder / f"block-{index:05d}.json"

    def _find(self) -> None:
        """Load the records of finished blocks of the same job; remove parts of another one."""
        self._check_replaceable()
        job = json.dumps(dict(self.job), sort_keys=True).encode()
        if self._read(self.folder / JOB) != job:
            self._remove_parts()
            self._write(self.folder / JOB, job)
        for file in self._files("block-*.json"):
            index, record = int(file.stem.removeprefix("block-")), self._usable(file)
            if record is None:
                file.unlink()
            else:
                self.finished[index] = record

    def _usable(self, file: Path) -> Mapping[str, Any] | None:
        """Return the record of a block, or None if it or a part of it was lost, as after a power failure."""
        try:
            record: dict[str, Any] = json.loads(self._read(file) or b"")
            parts = {name: self._part(int(file.stem.removeprefix("block-")), name) for name in record["files"]}
            whole = all(parts[name].stat().st_size == about["bytes"] for name, about in record["files"].items())
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            return None
        return record if whole else None

    def _remove_parts(self) -> None:
        parts = [f"part-*{PARQUET}"] if self.is_folder else [f"{name}-*" for name in self.outputs]
        for pattern in ("block-*.json", SUCCESS, *parts):
            for file in self._files(pattern):
                file.unlink()

    def _files(self, pattern: str) -> list[Path]:
        with as_os_errors(self.folder):
            return sorted(self.folder.glob(pattern))

    def _check_replaceable(self) -> None:
        """Raise UserError for an existing folder with other files than those of such a command."""
        if not self.is_folder or not self.out.exists():
            return
        with as_os_errors(self.out):
            names = [file.name for file in self.out.iterdir()]
        if names and not {JOB, SUCCESS} & set(names):
            raise UserError(f"{self.out}: holds other files ({sorted(names)[0]}); name a new folder")

    def _read(self, file: Path) -> bytes | None:
        try:
            with as_os_errors(file):
                return file.read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, file: Path, content: bytes) -> None:
        """Write a file atomically."""
        if is_remote(file):
            with as_os_errors(file):
                file.write_bytes(content)
            return
        draft = file.with_name(file.name + DRAFT)
        draft.write_bytes(content)
        draft.replace(file)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise RunError(f"{self.out}: cannot be written ({reason}); the same command continues") from error
