"""Forecasts of scaling: values computed by hand, and laws that hold for any input."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen_ray.bench.planner import (
    Forecast,
    NetworkLink,
    RunWorkload,
    StepCost,
    Topology,
    forecast,
    measure_step_seconds,
    valid_worker_counts,
    worthwhile_workers,
)
from gen_ray.datasets.prepare import prepare
from gen_ray.engine.inference import model_files
from gen_ray.engine.training.session import LocalSession
from gen_ray.engine.training.step import TrainState
from tests.conftest import ROOT, CommandResult
from tests.engine.tiny_models import CPU, experiment, images, model

GenRay = Callable[..., CommandResult]
LOAD = RunWorkload(
    batch=128, rows=12800, row_bytes=784, gradient_bytes=10**8, state_bytes=1, checkpoint_bytes=1, kept_bytes=1
)
FREE, SLOW = NetworkLink(1e9, 0.0), NetworkLink(8.0, 1e-3)
SITE = Topology(per_node=2, within=FREE, between=SLOW)


def test_the_time_of_a_ring_all_reduce_follows_its_formula() -> None:
    """Patarasuk & Yuan 2009: 2(W−1) hops of 1/W of the data; 10^8 bytes at 10^9 bytes/s on 4 workers take 150 ms."""
    assert SLOW.all_reduce(10**8, 4) == pytest.approx(6 * (1e-3 + 0.25e8 / 1e9))
    assert SLOW.all_reduce(10**8, 1) == 0


def test_a_forecast_equals_values_computed_by_hand() -> None:
    found = forecast(StepCost(0.01, 0.001), LOAD, SITE, 4)
    compute = 0.01 + 32 * 0.001
    last, flags = 6 * (1e-3 + 25 * 2**20 / 4 / 1e9), 6 * (1e-3 + 20 / 4 / 1e9)
    waiting = max(last, 0.156 - 2 / 3 * compute) + flags
    assert found.compute_seconds == pytest.approx(compute) and found.waiting_seconds == pytest.approx(waiting)
    assert found.images_per_second == pytest.approx(128 / (compute + waiting))
    assert found.epoch_seconds == pytest.approx(100 * (compute + waiting))
    assert found.ingest_bytes_per_second == pytest.approx(found.images_per_second * 784)
    assert found.efficiency == pytest.approx(found.images_per_second / 4 / (128 / 0.138))


def test_workers_slow_one_another_down_before_they_share_cores() -> None:
    site = replace(SITE, per_node=8, cores=4, contention=1.3)
    assert [site.slowdown(workers) for workers in (1, 2, 4, 8)] == pytest.approx([1, 1.1, 1.3, 2.6])
    assert replace(site, threads=4).slowdown(2) == pytest.approx(2.6) and replace(site, cores=None).slowdown(8) == 1


def test_workers_that_share_cores_divide_the_time() -> None:
    site = replace(SITE, per_node=4, between=FREE, cores=2)
    rates = [forecast(StepCost(0.0, 0.001), LOAD, site, n).images_per_second for n in (1, 2, 4)]
    assert rates[1] / rates[0] == pytest.approx(2, rel=1e-3) and rates[2] / rates[1] == pytest.approx(1, rel=1e-3)


@given(st.floats(0, 1), st.floats(1e-6, 1), st.floats(0.1, 1e3), st.sampled_from([2, 4, 8, 16]))
def test_a_better_link_is_never_slower_and_one_worker_needs_none(
    fixed: float, per_row: float, gbps: float, workers: int
) -> None:
    pace = StepCost(fixed, per_row)
    worse, better = (replace(SITE, between=NetworkLink(g, 1e-4), within=NetworkLink(g, 1e-4)) for g in (gbps, 2 * gbps))
    assert (
        forecast(pace, LOAD, better, workers).images_per_second
        >= forecast(pace, LOAD, worse, workers).images_per_second
    )
    assert forecast(pace, LOAD, worse, 1).waiting_seconds == 0 and forecast(pace, LOAD, worse, 1).efficiency == 1
    assert forecast(pace, LOAD, worse, workers).efficiency <= 1 + 1e-9


@given(st.floats(1e-4, 1), st.floats(1e-5, 1e-2))
def test_a_linear_cost_is_recovered(fixed: float, per_row: float) -> None:
    found = StepCost.fit({n: fixed + per_row * n for n in (8, 16, 64, 128)})
    assert found.fixed == pytest.approx(fixed, rel=1e-4) and found.per_row == pytest.approx(per_row, rel=1e-4)
    assert StepCost.fit({128: 0.5}) == StepCost(0.0, 0.5 / 128)


def test_more_workers_are_not_worthwhile_where_doubling_gains_too_little() -> None:
    def of(workers: int, rate: float) -> Forecast:
        return replace(forecast(StepCost(0.0, 1.0), LOAD, SITE, 1), workers=workers, images_per_second=rate)

    assert worthwhile_workers([of(1, 100), of(2, 190), of(4, 300), of(8, 360)]) == 4
    assert worthwhile_workers([of(1, 100), of(2, 129)]) == 1
    assert worthwhile_workers([of(1, 100), of(2, 200), of(6, 420)]) == 6  # 2.1 for 1.58 doublings
    assert valid_worker_counts(96, 1, 12) == [1, 2, 4, 8, 12] and valid_worker_counts(64, 2, 12) == [1, 2, 4, 8]


def test_the_estimate_of_checkpoint_bytes_matches_the_files(tmp_path) -> None:
    exp = experiment("vae")
    net = model("vae").net
    load = RunWorkload.of(exp, prepare("digits", out=tmp_path), exp.model(model("vae").spec).build_net())
    learner = TrainState(exp.model(model("vae").spec), exp.training, LocalSession({}), 10)
    learner.step([images(8)], 0)
    files = learner.pack(1)
    assert load.checkpoint_bytes == pytest.approx(sum(map(len, files.values())), rel=0.35)  # plus names and shapes
    assert load.gradient_bytes == sum(p.numel() * 4 for p in learner.module.parameters())
    assert len(model_files.weights(net)) > load.gradient_bytes


@pytest.mark.slow
def test_step_costs_are_measured_and_more_rows_take_longer() -> None:
    exp = experiment("ddpm-dropout")
    found = measure_step_seconds(exp, exp.model(model("vae").spec), images(512), [512, 1], device=CPU, rounds=1)
    assert found[512] > found[1] > 0 and torch.is_grad_enabled()


def test_the_plan_of_a_shipped_config(gen_ray: GenRay, storage) -> None:
    config = ROOT / "configs" / "demo" / "digits-vae.yaml"
    words = ["plan", config, f"storage.root={storage}", "--nodes", 2, "--gpus-per-node", 4, "--rate", "1000@64"]
    result = gen_ray(*words, "--rate", "500@8", "--json")
    found = json.loads(result.out)
    assert [one["workers"] for one in found["forecasts"]] == [1, 2, 4, 8]
    assert found["pace"]["fixed"] == pytest.approx((64 * 8 / 500 - 8 * 64 / 1000) / 56)
    assert found["forecasts"][0]["images_per_second"] == pytest.approx(
        found["load"]["batch"] / (found["pace"]["fixed"] + found["pace"]["per_row"] * found["load"]["batch"])
    )
    shown = gen_ray(*words).out
    assert "given by --rate" in shown and re.search(r"up to \d+ workers are worthwhile", shown)
    large = json.loads(gen_ray(*words, "--rows", 10**9, "--json").out)
    assert large["load"]["rows"] == 10**9
    assert large["forecasts"][0]["epoch_seconds"] == pytest.approx(10**9 / large["forecasts"][0]["images_per_second"])


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--rate", "x"], "--rate x: write EXAMPLES_PER_SECOND@ROWS"),
        (["--rate", "0@8"], "--rate 0@8: write"),
        (["--rate", "-1@8"], "--rate -1@8: both numbers must be above 0"),
        (["--nodes", "0"], "nodes"),
        (["--check", "7"], "--check 7: data.batch_size="),
        (["training.epoch=1"], "training.epoch"),
    ],
)
def test_an_impossible_plan_is_refused_in_one_line(gen_ray: GenRay, storage, words: list[str], fault: str) -> None:
    config = ROOT / "configs" / "demo" / "digits-vae.yaml"
    result = gen_ray("plan", config, f"storage.root={storage}", *words)
    assert result.code == 2 and fault in result.fault
