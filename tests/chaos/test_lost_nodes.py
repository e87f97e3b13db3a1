"""Machines and reading processes that go away: no row is lost or comes twice, and the run ends where it would have."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

from gen_ray.cluster.data import Streamed
from gen_ray.datasets.shards import load_split
from tests.chaos.test_killed import processes
from tests.cluster.street import sharded

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240, method="thread")]


def _slowly(item: dict[str, np.ndarray]) -> Any:
    """Read as ever, but take long enough over it to be killed."""
    from gen_ray.cluster.reading import _read

    time.sleep(0.3)
    return _read(item)


def test_rows_come_exactly_once_though_their_readers_are_killed(
    cluster: None, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = sharded(storage)
    shards = prepared.shards("train")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr("gen_ray.cluster.reading._read", _slowly)
    streamed, struck, over = Streamed(shards, batch_size=1), list[int](), threading.Event()

    def strike() -> None:
        while len(struck) < 3 and not over.wait(0.2):
            for reader in processes("MapBatches(")[:1]:
                reader.kill()
                struck.append(reader.pid)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    stream = streamed.stream(0)
    rows = torch.cat([micro for _ in range(streamed.rows) for micro in next(stream)]).numpy()
    over.set()
    thread.join()
    assert len(struck) == 3
    x, _ = load_split(prepared, "train")
    assert sorted(row.tobytes() for row in rows) == sorted(row.tobytes() for row in x)
