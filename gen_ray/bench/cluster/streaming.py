"""Benchmark of streaming a data set many times larger than the object store: memory and speed."""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from gen_ray.cluster.data.blocks import Streamed
from gen_ray.cluster.nodes import preflight
from gen_ray.cluster.nodes.start import start
from gen_ray.datasets.prepare import prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.inference import memory
from gen_ray.errors import UserError, argument
from gen_ray.host import ray_token

MB = 2**20
SIDE, BATCH, PART_ROWS = 64, 256, 8192
SAMPLE_SECONDS = 0.05


@dataclass
class PeakMemory:
    """Peak memory in bytes: object store, spilled objects, this process, and the largest reader process."""

    store: int = 0
    spilled: int = 0
    consumer: int = 0
    reader: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamingFigures:
    """Results of one streamed epoch."""

    data_bytes: int
    store_bytes: int
    rows: int
    seconds: float
    peak: PeakMemory


def stream_larger(*, data_mb: int, store_mb: int) -> StreamingFigures:
    """Stream an epoch of noise through a smaller object store; sizes in MB.

    Raise UserError if Ray is already initialised, UserError or RunError if it cannot start, before writing anything.
    """
    if ray.is_initialized():
        raise UserError("bench stream: Ray is already running in this process; run it in a separate process")
    preflight.check(None)
    memory.require(store_mb * MB, argument("store_mb", f"{store_mb:,}"), "ask for less")
    with tempfile.TemporaryDirectory(prefix="gr") as folder:
        _check_disk(Path(folder), data_mb)
        _write(Path(folder) / "parts", data_mb * MB // SIDE**2)
        prepared = prepare(f"parquet:{folder}/parts/*.parquet", out=Path(folder) / "data")
        ray_token.ensure()
        start(
            None,
            num_cpus=2,
            object_store_memory=store_mb * MB,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=f"{folder}/ray",
        )
        try:
            return _stream_epoch(prepared, store_mb * MB, Path(folder) / "ray")
        finally:
            ray.shutdown()


def _stream_epoch(prepared: Prepared, store_bytes: int, ray_folder: Path) -> StreamingFigures:
    """Stream the training split once and return the figures."""
    streamed = Streamed(prepared.shards("train"), batch_size=BATCH)
    steps = streamed.rows // BATCH
    # The stream is closed, because otherwise it continues to read ahead while Ray shuts down.
    with _record_peak(store_bytes, ray_folder) as peak, closing(cast(Any, streamed.stream(0))) as stream:
        began = time.perf_counter()
        for _ in range(steps):
            next(stream)
        seconds = time.perf_counter() - began
    size = sum(prepared.rows.values()) * SIDE**2
    return StreamingFigures(data_bytes=size, store_bytes=store_bytes, rows=steps * BATCH, seconds=seconds, peak=peak)


def _write(folder: Path, rows: int) -> None:
    """Write images (1, SIDE, SIDE) of noise, which cannot be compressed."""
    folder.mkdir()
    rng, image_type = np.random.default_rng(0), pa.fixed_shape_tensor(pa.uint8(), (1, SIDE, SIDE))
    for part, first in enumerate(range(0, rows, PART_ROWS)):
        flat = rng.integers(0, 256, min(PART_ROWS, rows - first) * SIDE**2, dtype=np.uint8)
        images = pa.ExtensionArray.from_storage(image_type, pa.FixedSizeListArray.from_arrays(pa.array(flat), SIDE**2))
        pq.write_table(pa.table({"image": images}), folder / f"{part:04d}.parquet", compression="none")


def _check_disk(folder: Path, data_mb: int) -> None:
    """Raise UserError if the data, their prepared form and Ray's spilled objects do not fit on the disk."""
    needed, free = 3 * data_mb * MB, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"needs {needed / MB:,.0f} MB in {folder.parent}, {free / MB:,.0f} MB are free; "
            "ask for less, or set TMPDIR to a larger disk",
            field="data_mb",
            value=f"{data_mb:,}",
        )


@contextmanager
def _record_peak(store: int, folder: Path) -> Iterator[PeakMemory]:
    """Yield a record of the peak memory during the block, sampled every SAMPLE_SECONDS."""
    peak, stop, process = PeakMemory(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            free = ray.available_resources().get("object_store_memory", 0.0)
            peak.store = max(peak.store, int(store - free))
            peak.spilled = max(peak.spilled, sum(f.stat().st_size for f in folder.rglob("ray_spilled_objects*/*")))
            peak.consumer = max(peak.consumer, process.memory_info().rss)
            for child in process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "MapBatches" in " ".join(child.cmdline()):
                        peak.reader = max(peak.reader, child.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
