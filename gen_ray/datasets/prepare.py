"""Preparation of a data set: converts a source to a folder of shards, once."""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from gen_ray.datasets.catalogue import open_source
from gen_ray.datasets.code_counts import CodeCounts
from gen_ray.datasets.prepared import FORMAT, SPEC, Prepared, fingerprint
from gen_ray.datasets.rows import SPLITS, STOP, TRAIN, BadRow, BadRows, Quarantine, skip_option, split_indices
from gen_ray.datasets.source import DataSource, SourceOptions
from gen_ray.datasets.writer import ShardWriter, write_durably
from gen_ray.dataspec import DataSpec
from gen_ray.errors import RunError, UserError, argument
from gen_ray.storage import manifest, paths
from gen_ray.storage.cleanup import cleanup_on_error

__all__ = ["BadRows", "Prepared", "SourceOptions", "prepare"]

UNSAFE = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"
"""Environment variable that lets Ray Data unpickle metadata of Parquet columns (PYSEC-2026-2272)."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)
"""Errors that another name of the folder would not avoid."""
SHARD_BYTES = 8 * 2**20
Progress = Callable[[int], None]


def prepare(
    source: str,
    *,
    root: Path | None = None,
    out: Path,
    options: SourceOptions | None = None,
    on_bad_row: BadRows = STOP,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Prepared:
    """Return the prepared folder ``out/<name>-<key>`` of a source. Create it if it does not exist.

    The key is a hash of the source, its options and the paths, sizes and times of its files, so that unchanged files
    are not read. If the source's files are missing, data prepared from them before are used. Rows keep the source's
    order. progress is called with the number of rows of every finished batch. Raise UserError for an unknown, missing
    or damaged source, RunError if the folder cannot be written.
    """
    options = options or SourceOptions()
    origin = opened(source, root, options)
    about = {"format": FORMAT, "source": source, "options": options.recorded()}
    try:
        signature = origin.signature()
    except UserError as missing:
        done = _prepared_without_source(out, about, missing)
    else:
        parts = [*about.values(), shard_bytes, signature]
        folder = out / f"{origin.name}-{sha256(json.dumps(parts).encode()).hexdigest()[:12]}"
        fill = partial(_fill, origin, about, Quarantine(on_bad_row), shard_bytes, progress or (lambda rows: None))
        done = _existing(folder) or _found_or_filled(folder, fill)
    if done.quarantined > on_bad_row.limit:
        raise UserError(
            f"{done.folder}: prepared without {done.quarantined} bad rows; correct the source, or allow them: "
            f"{skip_option(done.quarantined)}"
        )
    return done


def opened(source: str, root: Path | None, options: SourceOptions) -> DataSource:
    """Return a source, which has not read any data yet. Raise UserError for an unknown one."""
    if os.environ.get(UNSAFE):
        raise UserError(f"{UNSAFE} is set: it lets data files run code; unset it")
    return open_source(source, root, options)


def _found_or_filled(folder: Path, fill: Callable[[Path], None]) -> Prepared:
    """Return a prepared folder after filling it, unless another process has filled it in the meantime."""
    with cleanup_on_error(folder.parent), _exclusive(folder.parent):
        if not (done := _existing(folder)):
            _commit(folder, fill)
            done = Prepared.load(folder)
    return done


def _prepared_without_source(out: Path, about: Mapping[str, object], missing: UserError) -> Prepared:
    """Return the data below out that were prepared from a source with the same options. Raise missing unless unique."""
    same = [data for data in _all(out) if (data.source, data.options) == (about["source"], about["options"])]
    if len(same) != 1:
        raise missing
    logging.getLogger(__name__).warning("%s; using the data prepared from it: %s", missing, same[0].folder)
    return same[0]


def find(out: Path, fingerprint: str) -> Prepared | None:
    """Return the prepared folder below out whose shards have a fingerprint, or None.

    It needs neither the source nor its path, and so finds data that were moved or whose raw files are missing.
    """
    return next((data for data in _all(out) if data.fingerprint == fingerprint), None)


def _all(out: Path) -> Iterator[Prepared]:
    """Yield the complete prepared folders below out."""
    found = (_existing(folder) for folder in paths.complete(out, "*"))
    return (data for data in found if data)


def _fill(
    origin: DataSource,
    about: dict[str, object],
    quarantine: Quarantine,
    shard_bytes: int,
    progress: Progress,
    draft: Path,
) -> None:
    """Write shards, spec, quarantine and, last, the manifest."""
    native = origin.spec()
    spec = _coarsened(native, origin.options.levels)
    writers = [ShardWriter(draft, split, spec, shard_bytes) for split in SPLITS]
    counts = _write_rows(origin, native, spec, writers, quarantine, progress)
    _check_splits(origin, {writer.split: writer.rows for writer in writers})
    digests = {name: digest for writer in writers for name, (_, digest) in writer.written.items()}
    about |= {
        "spec": counts.in_spec(spec).model_dump(mode="json"),
        "notes": origin.notes(),
        "fingerprint": fingerprint(digests.values()),
        "rows": {writer.split: writer.rows for writer in writers},
        "quarantined": len(quarantine),
        "shards": {writer.split: {name: n for name, (n, _) in writer.written.items()} for writer in writers},
    }
    if spec.is_table:
        about["source_fingerprint"] = _source_fingerprint(origin)
    indent = None if spec.is_table else 1  # thousands of columns: json indents slowly
    digests[SPEC] = write_durably(draft / SPEC, json.dumps(about, indent=indent).encode())
    if len(quarantine):
        digests["quarantine.jsonl"] = write_durably(draft / "quarantine.jsonl", quarantine.text().encode())
    write_durably(draft / manifest.NAME, manifest.text(digests).encode())
    manifest.flush(draft)


def _source_fingerprint(origin: DataSource) -> str:
    """Return the ``source_fingerprint`` of data prepared from a source of a table."""
    parts = [origin.content(), origin.options.without_bins().recorded()]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write_rows(
    origin: DataSource,
    native: DataSpec,
    spec: DataSpec,
    writers: Sequence[ShardWriter],
    quarantine: Quarantine,
    progress: Progress,
) -> CodeCounts:
    """Write all rows to the shards of their splits, and return the counts of the training rows' codes."""
    counts = CodeCounts(spec)
    for item in origin.rows(native):
        if isinstance(item, BadRow):
            quarantine.add(item)
            continue
        x = item.x if spec == native else item.x.astype(np.int64) * spec.levels // native.levels
        places = split_indices(item)
        counts.add(x[places == TRAIN])
        for place, writer in enumerate(writers):
            mine = places == place
            writer.add(x[mine], None if item.labels is None else item.labels[mine])
        progress(len(x))
    for writer in writers:
        writer.flush()
    return counts


def _coarsened(spec: DataSpec, levels: int | None) -> DataSpec:
    """Return the spec after quantising images to fewer grey levels."""
    if levels is None:
        return spec
    if not spec.is_image or levels >= spec.levels:
        raise UserError(
            f"data.options.levels has no effect on {spec.kind} of {spec.levels} levels",
            field="option",
            value=f"levels={levels}",
        )
    return spec.model_copy(update={"levels": levels})


def _check_splits(origin: DataSource, rows: dict[str, int]) -> None:
    empty = [split for split, count in rows.items() if not count]
    if empty:
        raise UserError(
            f"{origin.name}: {sum(rows.values())} usable examples leave the {empty[0]} split empty; "
            "provide more (100 are nearly always enough)"
        )


def _existing(folder: Path) -> Prepared | None:
    """Return the prepared folder if it exists and is complete, else None."""
    paths.exists(folder)  # restores a folder that a killed process had moved aside
    try:
        return Prepared.load(folder)
    except UserError:
        return None


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Hold the lock of the process that prepares data below out. It is released when the process ends in any way.

    On an object store each machine has its own lock. Several processes write equal data, and the last one counts.
    """
    out = paths.local_dir(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
    except OSError as error:
        kind = RunError if error.errno in FULL else UserError
        raise kind(
            f"{out}: cannot be used as a folder ({error.strerror}); "
            f"storage.root ({argument('storage')}), or {argument('out')} of gen-ray prepare, names another one"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _commit(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create a folder atomically, after removing the drafts of killed processes. Raise RunError."""
    for draft in paths.drafts(folder.parent):
        paths.remove(draft)
    try:
        paths.commit(folder, fill)
    except OSError as error:
        raise RunError(f"{error.filename or folder}: {error.strerror or error}; nothing was prepared") from error
