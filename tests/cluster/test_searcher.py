"""The searcher that records a sweep for Ray Tune, without Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from gen_ray.cluster.jobs.queue import NoQueue
from gen_ray.cluster.sweeps.data import SweepData
from gen_ray.cluster.sweeps.searcher import IMPOSSIBLE, StudySearcher
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment
from gen_ray.sweeps.axes import Point
from gen_ray.sweeps.config import SweepPlan
from gen_ray.sweeps.study import FAILED, Study
from tests.cluster.test_sweep import plan


def test_incompatible_settings_fail_only_their_own_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"family.latent_dim": {"choice": [2, 3, 4]}}
    found, real = plan(tmp_path, tmp_path, "together", space=space), SweepPlan.experiment

    def experiment(self: SweepPlan, point: Point) -> Experiment:
        if point["family.latent_dim"] == 3:
            raise UserError("space: latent_dim=3: does not go with the rest")
        return real(self, point)

    def ledger() -> StudySearcher:
        parent = cast(RunLogger, SimpleNamespace(run_id="together-1", tracker=None))
        data = cast(SweepData, SimpleNamespace(of=lambda experiment: None))
        return StudySearcher(Study(found, tmp_path), parent, data, NoQueue(), None)

    opened = list[str]()
    monkeypatch.setattr(SweepPlan, "experiment", experiment)
    monkeypatch.setattr("gen_ray.cluster.sweeps.searcher.params", lambda *_: {})
    monkeypatch.setattr(RunLogger, "open", lambda self, **_: opened.append(self.run_id))
    monkeypatch.setattr(RunLogger, "end", lambda *_: None)
    first = ledger()
    given = [first.suggest(str(number)) for number in range(3)]
    assert [isinstance(one, dict) for one in given] == [True, False, True] and len(opened) == 2
    assert first.suggest("3") == StudySearcher.FINISHED
    [failed] = [result for result in first.study.results() if result.state == FAILED]
    assert (failed.error, failed.reason) == ("space: latent_dim=3: does not go with the rest", IMPOSSIBLE)
    opened.clear()
    ledger().reconcile()
    assert opened == []
