"""A sweep that is stopped by the daemon or by ``ray job stop``."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.errors import EndedError
from tests.cluster.test_sweep import plan, story


@pytest.mark.usefixtures("cluster")
def test_after_sigterm_a_sweep_is_unfinished_and_not_an_error_of_ray(storage: Path, tmp_path: Path) -> None:
    space = {"training.seed": {"choice": [1, 2, 3]}}
    sweep_plan = plan(tmp_path, storage, "terminated", space=space, settings={"training": {"epochs": 1}}, concurrency=1)

    def cut(done: int, *_: Any) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EndedError, match="`resume`") as ended:
        sweep(sweep_plan, watch=cut, tags={"gen_ray.schedule": "nightly"})
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    parent, trials = story(sweep_plan)
    assert "RUNNING" not in {trial.status for trial in trials}
    assert parent.status == "KILLED" and parent.tags["gen_ray.schedule"] == "nightly"
