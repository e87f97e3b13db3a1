"""gen-ray bench gpu with small sizes on the CPU: every figure is present, and the time limit holds."""

import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gen_ray.bench.gpu import environment, flops, memory, report, running, sampling, syncs, workloads
from gen_ray.bench.gpu.alternating import LEAST_ROUNDS, Conditions, OutOfTimeError, alternate, ratio
from gen_ray.bench.gpu.running import BenchOutcome, BenchTask
from gen_ray.errors import EndedError, UserError
from pipelines.bench_gpu import CONFIGS
from tests.conftest import CommandResult

CPU = torch.device("cpu")
FAMILIES = ["ddpm", "discrete", "score_sde", "vae"]
ABSENT = ("ray", "mlflow", "pyarrow", "sklearn", "torchvision", "matplotlib", "fastapi", "gen_ray.cluster")
"""Modules that a bare machine lacks, or that import them."""


class FakeClock:
    """A clock that advances only by work."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[int], None]:
        def repeat(times: int) -> None:
            self.now += seconds * times

        return repeat


def conditions(clock: FakeClock, *, rounds: int = 5, seconds: float = 1e6) -> Conditions:
    return Conditions(device=CPU, rounds=rounds, deadline=clock.now + seconds, clock=clock)


def numbers(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        for value in node.values():
            yield from numbers(value)
    elif isinstance(node, list):
        for value in node:
            yield from numbers(value)
    elif isinstance(node, int | float):
        yield node


def ratios(node: Any) -> Iterator[dict[str, float]]:
    if isinstance(node, dict):
        if "ratio" in node:
            yield node
        for value in node.values():
            yield from ratios(value)
    elif isinstance(node, list):
        for value in node:
            yield from ratios(value)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_measured_without_ray_mlflow_and_data(
    gen_ray: Callable[..., CommandResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ABSENT:
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    monkeypatch.chdir(tmp_path)
    result = gen_ray("bench", "gpu", "--device", "cpu", "--rounds", 2, "--json", "figures.json")
    assert result.code == 0, result
    found = json.loads(Path("figures.json").read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert found["not_measured"] == found["failed"] == {}
    assert found["run"]["size"] == "small" and found["run"]["rounds"] == 2 and found["run"]["seconds"] > 0
    assert {"date", "commit", "torch", "device", "card", "settings"} <= set(found["environment"])
    for kind in ("training", "sampling", "batching"):
        assert sorted(found[kind]) == FAMILIES
    assert all(math.isfinite(number) for number in numbers(found))
    for one in ratios(found):
        assert 0 < one["ratio_lowest"] <= one["ratio"] <= one["ratio_highest"]
    for of in found["training"].values():
        assert 0 < of["rounds"] <= 2 and of["training_gflops_per_example"] > 0
        for side in ("bare", "gen_ray"):
            assert of[side]["flop_utilisation"] > 0 and of[side]["memory"]["process_peak_mib"] > 0
            assert of[side]["host_syncs"] == {"each": None, "note": "not measured on the CPU"}
    for family, of in found["sampling"].items():
        cells = [(cell["sampler"], cell["batch"]) for cell in of["samplers"]]
        assert cells == [(name, size) for name in workloads.SAMPLERS[family] for size in workloads.SMALL_SIZE.batches]
    for of in found["batching"].values():
        assert of["requests"] > 0 and 0 < of["latency_p50_seconds"] <= of["latency_p99_seconds"]
    for words in ("training, against a bare PyTorch loop", "first_hitting", "batcher under a mixed load", "score_sde"):
        assert words in result.out
    assert "training ddpm: about" in result.err and "not measured: " not in result.out


def test_without_time_everything_is_listed_as_not_measured(
    gen_ray: Callable[..., CommandResult], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    result = gen_ray("bench", "gpu", "--device", "cpu", "--seconds", 0, "--json", file)
    found = json.loads(file.read_text())
    assert result.code == 0 and len(found["not_measured"]) == 12
    for name, reason in found["not_measured"].items():
        assert f"not measured: {name} ({reason})" in result.out and "; 0.0 s were left" in reason
        assert re.match(r"takes about (0\.[1-9]|\d+\.\d) s;", reason), "a short time is not shown as 0 s"


def test_bad_input_is_reported_before_the_measurements(
    gen_ray: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    result = gen_ray("bench", "gpu")
    assert result.code == 2 and "torch sees no GPU" in result.fault and "--device cpu" in result.fault
    assert torch.__version__ in result.fault and "CUDA_VISIBLE_DEVICES='-1'" in result.fault
    for file, fault in (
        ("nowhere/figures.json", "the folder 'nowhere' does not exist"),
        ("", "name a file"),
        (".", "name a file"),
    ):
        result = gen_ray("bench", "gpu", "--device", "cpu", "--json", file)
        assert result.code == 2 and fault in result.fault
    assert gen_ray("bench", "gpu", "--device", "gpu").code == gen_ray("bench", "gpu", "--size", "tiny").code == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EndedError()])
def test_an_interrupted_run_reports_what_it_measured_and_names_the_rest(
    gen_ray: Callable[..., CommandResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(*_: object) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(sampling, "measure", interrupted)
    file = tmp_path / "figures.json"
    result = gen_ray("bench", "gpu", "--device", "cpu", "--rounds", 1, "--json", file)
    assert result.code == (130 if isinstance(error, KeyboardInterrupt) else 143)
    found = json.loads(file.read_text())
    assert list(found["training"]) == ["ddpm"] and "training, against a bare PyTorch loop" in result.out
    assert len(found["not_measured"]) == 11 and found["run"]["seconds"] > 0
    assert f"not measured: batching vae ({running.NOT_REACHED})" in result.out


def test_figures_go_into_a_pipe_or_the_file_that_a_link_names(
    gen_ray: Callable[..., CommandResult], tmp_path: Path
) -> None:
    """Renaming a file to such a path would replace the pipe or the link."""
    pipe, link, file = (tmp_path / name for name in ("pipe", "link", "file"))
    os.mkfifo(pipe)
    link.symlink_to(file)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for path in (pipe, link):
            result = gen_ray("bench", "gpu", "--device", "cpu", "--seconds", 0, "--json", path)
            assert result.code == 0, result
        assert pipe.is_fifo() and b'"not_measured"' in os.read(reader, 1 << 16)
    finally:
        os.close(reader)
    assert link.is_symlink() and len(json.loads(file.read_text())["not_measured"]) == 12


def test_the_full_size_knows_the_samplers_and_shapes_of_its_configs() -> None:
    files = sorted(CONFIGS.glob("*.yaml"))
    found = [workloads.workload(file, workloads.FULL) for file in files]
    assert sorted(one.name for one in found) == FAMILIES
    for one in found:
        assert one.examples(2).shape == (2, *one.spec.shape) and int(one.examples(64).max()) < one.spec.levels
        for sampler in workloads.SAMPLERS[one.name]:
            chain, steps = one.chain(sampler, workloads.FULL.sampler_steps)
            assert steps <= workloads.FULL.sampler_steps and chain.nfe <= 2 * steps


# ---- features of a GPU, simulated -----------------------------------------------------------------------------------


@pytest.fixture
def played_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Simulate the torch.cuda functions that the benchmark calls; return the calls."""
    calls = list[str]()

    def play(name: str, *answers: object) -> None:
        left = list(answers)

        def function(*_: object) -> object:
            calls.append(name)
            return left.pop(0) if left else None

        monkeypatch.setattr(torch.cuda, name, function)

    card = {"name": "GPU", "major": 9, "minor": 0, "total_memory": 80 << 30, "multi_processor_count": 132}
    play("get_device_properties", SimpleNamespace(**card))
    play("memory_allocated", 10 * memory.MIB)
    play("memory_reserved", 20 * memory.MIB)
    play("max_memory_allocated", 13 * memory.MIB)
    play("max_memory_reserved", 24 * memory.MIB)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        play(name)
    return calls


def test_peak_memory_of_a_gpu_is_that_of_the_work(played_gpu: list[str]) -> None:
    on_gpu = Conditions(device=torch.device("cuda"), rounds=1, deadline=math.inf)
    found = memory.peak(on_gpu, lambda: lambda times: played_gpu.append(f"work {times}"))
    assert found == {"allocated_mib": 3, "reserved_mib": 4}
    order = [call for call in played_gpu if call in ("reset_peak_memory_stats", "work 2", "max_memory_allocated")]
    assert order == ["reset_peak_memory_stats", "work 2", "max_memory_allocated"]
    assert played_gpu[played_gpu.index("work 2") + 1] == "synchronize", "the work is finished before its memory is read"


def test_the_environment_names_the_card_also_without_git_and_nvidia_smi(
    played_gpu: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment.describe(torch.device("cuda"))
    assert (found["card"], found["capability"], found["memory_mib"]) == ("GPU", "9.0", 81920)
    assert found["driver"] == found["commit"] == "unknown"
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    broken.chmod(0o755)
    assert environment._driver() == "unknown"
    assert "get_device_properties" in played_gpu


# ---- the time limit -------------------------------------------------------------------------------------------------


def test_measurements_beyond_the_time_limit_are_left_out_and_failed_ones_are_named() -> None:
    clock, saved = FakeClock(), list[int]()

    def task(name: str, seconds: float, taken: float, error: Exception | None = None) -> BenchTask:
        def work(_: Conditions) -> dict[str, Any]:
            clock.now += taken
            if error is not None:
                raise error
            return {"figure": taken}

        return BenchTask(kind="training", family=name, seconds=seconds, work=work)

    tasks = [
        task("a", 10, 25),
        task("large", 20, 20),
        task("broken", 5, 1, RuntimeError("CUDA out of memory. Tried to\nallocate")),
        task("late", 5, 1, OutOfTimeError()),
        task("b", 10, 10),
    ]
    outcome = BenchOutcome()
    running.run(
        tasks,
        CPU,
        outcome,
        limit_seconds=40,
        rounds=2,
        announce=lambda _: None,
        save=lambda found: saved.append(len(found.figures.get("training", {}))),
        clock=clock,
    )
    assert outcome.figures == {"training": {"a": {"figure": 25, "seconds": 25}, "b": {"figure": 10, "seconds": 10}}}
    assert outcome.not_measured["training large"] == "takes about 20 s; 15 s were left"
    assert "time limit" in outcome.not_measured["training late"]
    assert outcome.failed == {"training broken": "RuntimeError: CUDA out of memory. Tried to"}
    assert outcome.seconds == 37 <= 40 and saved == [0, 1, 1, 1, 2, 2], "figures are saved after each measurement"
    assert list(report.remarks(outcome))[-1] == "failed: training broken (RuntimeError: CUDA out of memory. Tried to)"


def test_a_failed_measurement_ends_the_command_with_code_1(
    gen_ray: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: object, __: object, outcome: BenchOutcome, **___: object) -> None:
        outcome.failed["training vae"] = "RuntimeError: no"

    monkeypatch.setattr(running, "run", run)
    result = gen_ray("bench", "gpu", "--device", "cpu")
    assert result.code == 1 and "1 of 12 measurements failed" in result.err and "failed: training vae" in result.out


def test_a_batch_that_does_not_fit_into_memory_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = sampling.generate

    def limited(net: Any, chain: Any, n: int, **settings: Any) -> torch.Tensor:
        if n > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return real(net, chain, n, **settings)

    monkeypatch.setattr(sampling, "generate", limited)
    one = workloads.workload(CONFIGS / "vae.yaml", workloads.SMALL_SIZE)
    found = sampling.measure(one, workloads.SMALL_SIZE, Conditions(device=CPU, rounds=1, deadline=math.inf))
    assert [cell["batch"] for cell in found["samplers"]] == [1, 1] and found["largest_batch"] == 1
    outcome = BenchOutcome(figures={"sampling": {"vae": found}})
    assert next(iter(report.remarks(outcome))) == "not measured: sampling vae, mean at batch 4 (out of memory)"


def test_bad_input_ends_a_run() -> None:
    def work(_: Conditions) -> dict[str, Any]:
        raise UserError("no")

    task = BenchTask(kind="training", family="a", seconds=0, work=work)
    with pytest.raises(UserError):
        running.run(
            [task], CPU, BenchOutcome(), limit_seconds=1, rounds=1, announce=lambda _: None, save=lambda _: None
        )


# ---- alternating rounds ---------------------------------------------------------------------------------------------


def test_sides_alternate_and_fill_the_time() -> None:
    clock, order = FakeClock(), list[tuple[str, int]]()

    def side(name: str, seconds: float) -> Callable[[int], None]:
        def repeat(times: int) -> None:
            order.append((name, times))
            clock.now += seconds * times

        return repeat

    found = alternate(conditions(clock, rounds=2), {"a": side("a", 0.5), "b": side("b", 1.0)}, seconds=43)
    assert order == [("a", 1), ("a", 1), ("b", 1), ("b", 1), *[("a", 20), ("b", 10)] * 2]
    assert found == {"a": [0.5, 0.5], "b": [1.0, 1.0]}
    assert ratio(found["a"], found["b"]) == {"ratio": 0.5, "ratio_lowest": 0.5, "ratio_highest": 0.5}


def test_slow_sides_have_few_rounds_and_one_after_the_deadline() -> None:
    clock = FakeClock()
    slow = {"a": clock.work(10), "b": clock.work(10)}
    assert len(alternate(conditions(clock, rounds=9), slow, seconds=1)["a"]) == LEAST_ROUNDS
    assert len(alternate(conditions(clock, rounds=9, seconds=41), slow, seconds=1)["b"]) == 1
    with pytest.raises(OutOfTimeError):
        alternate(conditions(clock, seconds=35), slow, seconds=1)


# ---- counters ------------------------------------------------------------------------------------------------------


def test_operations_of_linear_layers_are_those_of_the_closed_form() -> None:
    net, x = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)), torch.randn(4, 5)
    forward = 2 * 4 * (5 * 7 + 7 * 3)
    backward = 2 * 4 * (5 * 7 + 2 * 7 * 3)  # both weights, and the input of the second layer
    assert flops.count(lambda: net(x)) == forward
    assert flops.count(lambda: net(x).sum().backward()) == forward + backward


def test_operations_of_attention_are_counted() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind()
    assert flops.count(lambda: nn.functional.scaled_dot_product_attention(q, k, v)) == 2 * (2 * 2 * 4 * 6 * 6 * 8)


def test_host_waits_are_counted_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = list[object]()
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", mode.append)

    def work(times: int) -> None:
        for _ in range(times):
            warnings.warn(f"{syncs.MESSAGE} (played)", stacklevel=1)
        warnings.warn("another one", stacklevel=1)

    with pytest.warns(UserWarning, match="another one"):
        found = syncs.count(work, 3, torch.device("cuda"))
    assert found["each"] == 1 and mode == ["warn", 0]
    assert [line.rpartition(":")[0].endswith("test_gpu_bench.py") for line in found["lines"]] == [True]


def test_a_wait_inside_torch_is_named_by_the_line_of_this_project() -> None:
    class WarningNet(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn(syncs.MESSAGE, stacklevel=1)
            return x

    with syncs.recorded() as places:
        flops.count(lambda: WarningNet()(torch.zeros(1)))
    [line] = places
    assert line.startswith("gen_ray/bench/gpu/flops.py:")
