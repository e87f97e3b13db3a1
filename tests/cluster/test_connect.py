"""Resources of a cluster: present ones, and those that an autoscaler may add."""

from contextlib import suppress

import pytest
from ray.util import placement_group_table

from gen_ray.cluster.nodes import connect, start
from gen_ray.errors import UserError
from gen_ray.experiment import Scaling


@pytest.mark.usefixtures("cluster")
def test_machines_that_an_autoscaler_may_start_count_as_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of 0 to 4 GPU machines would never start one if requests were refused while it has none."""
    scaling = Scaling(num_workers=2, use_gpu=True)
    with pytest.raises(UserError, match=r"\b2 GPUs.*\b0\b"):
        connect.uses_gpu(scaling)
    assert not connect.uses_gpu(Scaling(num_workers=2))
    monkeypatch.setattr(connect.state, "get_max_resources_from_cluster_config", lambda: {"CPU": 2, "GPU": 4})
    assert connect.uses_gpu(scaling) and connect.uses_gpu(Scaling(num_workers=2))
    assert connect.needs(scaling, 3) == {"CPU": 6, "GPU": 2}
    found = connect.available_resources()
    assert found["GPU"] == 4 and found["CPU"] == 4  # four are present, whatever the file says
    with pytest.raises(UserError, match="5 workers need 5 GPUs"):
        connect.uses_gpu(Scaling(num_workers=5, use_gpu=True))
    assert connect.uses_gpu(Scaling(num_workers=(3, 8), use_gpu=True))
    assert connect.needs(Scaling(use_gpu=True, gpus_per_worker=0.5), 1) == {"CPU": 1, "GPU": 0.5}


def test_ray_does_not_start_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a thread of an interrupted training called Ray after its shutdown and started a second Ray."""
    started: list[object] = []
    monkeypatch.setattr("ray.init", lambda *_, **options: started.append(options.get("address")))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("gen_ray.cluster.nodes.preflight.check", lambda *_: None)
    start.start(None)
    with suppress(Exception):  # Ray's error without a cluster; the tests may have a cluster
        placement_group_table()
    assert started == ["local"]
