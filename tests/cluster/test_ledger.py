"""A sweep's record as Ray Tune sees it, without Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gen_ray.cluster.jobs.queue import Free
from gen_ray.cluster.sweeps.searcher import IMPOSSIBLE, Ledger
from gen_ray.cluster.tracking.logger_actor import Track
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment
from gen_ray.sweeps.config import Plan, Point
from gen_ray.sweeps.study import FAILED, Study
from tests.cluster.test_sweep import plan


def test_settings_that_do_not_go_together_fail_their_own_trial_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"family.latent_dim": {"choice": [2, 3, 4]}}
    found, real = plan(tmp_path, tmp_path, "together", space=space), Plan.experiment

    def experiment(self: Plan, point: Point) -> Experiment:
        if point["family.latent_dim"] == 3:
            raise UserError("space: latent_dim=3: does not go with the rest")
        return real(self, point)

    def ledger() -> Ledger:
        parent = cast(Track, SimpleNamespace(run_id="together-1", tracker=None))
        return Ledger(Study(found, tmp_path), parent, cast(Any, None), Free(), None)

    opened = list[str]()
    monkeypatch.setattr(Plan, "experiment", experiment)
    monkeypatch.setattr("gen_ray.cluster.sweeps.searcher.params", lambda *_: {})
    monkeypatch.setattr(Track, "open", lambda self, **_: opened.append(self.run_id))
    monkeypatch.setattr(Track, "end", lambda *_: None)
    first = ledger()
    given = [first.suggest(str(number)) for number in range(3)]
    assert [isinstance(one, dict) for one in given] == [True, False, True] and len(opened) == 2
    assert first.suggest("3") == Ledger.FINISHED
    [failed] = [result for result in first.study.results() if result.state == FAILED]
    assert (failed.error, failed.reason) == ("space: latent_dim=3: does not go with the rest", IMPOSSIBLE)
    opened.clear()
    ledger().reconcile()
    assert opened == []
