"""The result of a run as JSON values and as tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gen_ray.bench.gpu.running import BenchOutcome

BARE, OURS = "bare", "gen_ray"


@dataclass(frozen=True)
class ReportTable:
    """A table of text."""

    title: str
    header: list[str]
    lines: list[list[str]]


def as_json(outcome: BenchOutcome, environment: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return every figure; run says how it was asked for."""
    return {
        "environment": dict(environment),
        "run": {**run, "seconds": outcome.seconds},
        **{kind: outcome.figures.get(kind, {}) for kind in TABLES},
        "not_measured": outcome.not_measured,
        "failed": outcome.failed,
    }


def tables(outcome: BenchOutcome) -> Iterator[ReportTable]:
    """Yield the tables of the figures."""
    for kind, make in TABLES.items():
        if figures := outcome.figures.get(kind):
            yield from make(figures)


def remarks(outcome: BenchOutcome) -> Iterator[str]:
    """Yield a line for every measurement without figures."""
    for name, reason in outcome.not_measured.items():
        yield f"not measured: {name} ({reason})"
    for family, of in outcome.figures.get("sampling", {}).items():
        for cell, reason in of["missing"].items():
            yield f"not measured: sampling {family}, {cell} ({reason})"
    for name, reason in outcome.failed.items():
        yield f"failed: {name} ({reason})"


def _training(figures: Mapping[str, Any]) -> Iterator[ReportTable]:
    header = ["family", "parameters", "batch", "precision", "bare, ms/step", "gen-ray, ms/step", "speed against bare"]
    header += ["lowest", "highest", "gen-ray, examples/s", "FLOP utilisation", "of bare", "matrix products, TFLOP/s"]
    lines = [
        [
            family,
            f"{of['parameters'] / 1e6:.3g} M",
            str(of["batch"]),
            of["precision"],
            f"{of[BARE]['milliseconds_per_step']:.2f}",
            f"{of[OURS]['milliseconds_per_step']:.2f}",
            *_ratio(of),
            f"{of[OURS]['examples_per_second']:,.0f}",
            f"{100 * of[OURS]['flop_utilisation']:.1f} %",
            f"{100 * of[BARE]['flop_utilisation']:.1f} %",
            f"{of['peak_tflops']:,.3g}",
        ]
        for family, of in figures.items()
    ]
    yield ReportTable("training, against a bare PyTorch loop with the data on the device", header, lines)
    header = ["family", "bare, host syncs/step", "gen-ray, host syncs/step", "bare, peak MiB", "gen-ray, peak MiB"]
    lines = [
        [family, *(_syncs(of[side]) for side in (BARE, OURS)), *(_memory(of[side]["memory"]) for side in (BARE, OURS))]
        for family, of in figures.items()
    ]
    yield ReportTable("training: operations that make the host wait for the device, and memory", header, lines)


def _sampling(figures: Mapping[str, Any]) -> Iterator[ReportTable]:
    header = ["family", "sampler", "evaluations", "batch", "forward only, ms/evaluation", "sampler, ms/evaluation"]
    header += ["speed against forward", "lowest", "highest"]
    lines = [
        [
            family,
            cell["sampler"],
            str(cell["nfe"]),
            str(cell["batch"]),
            f"{cell['bare_milliseconds_per_evaluation']:.3f}",
            f"{cell['gen_ray_milliseconds_per_evaluation']:.3f}",
            *_ratio(cell),
        ]
        for family, of in figures.items()
        for cell in of["samplers"]
    ]
    yield ReportTable("sampling, against its network evaluations without the sampler", header, lines)
    lines = [
        [family, of["samplers"][0]["sampler"], str(of["largest_batch"]), _syncs(of), _memory(of["memory"])]
        for family, of in figures.items()
    ]
    header = ["family", "sampler", "batch", "host syncs of a run", "peak MiB beyond the weights"]
    yield ReportTable("sampling: operations that make the host wait for the device, and memory", header, lines)


def _batching(figures: Mapping[str, Any]) -> Iterator[ReportTable]:
    header = ["family", "batch", "clients", "full batches, rows/s", "batcher, rows/s", "speed against full batches"]
    header += ["lowest", "highest", "requests/s", "p50, s", "p99, s"]
    lines = [
        [
            family,
            str(of["batch"]),
            str(of["clients"]),
            f"{of['offline_evaluations_per_second']:,.0f}",
            f"{of['served_evaluations_per_second']:,.0f}",
            *_ratio(of),
            f"{of['requests_per_second']:,.1f}",
            *(f"{of[name]:.3f}" for name in ("latency_p50_seconds", "latency_p99_seconds")),
        ]
        for family, of in figures.items()
    ]
    yield ReportTable("batcher under a mixed load, against full batches (rows: examples × evaluations)", header, lines)
    header = ["family", "samples", "direct, s", "batcher, s", "speed against direct", "lowest", "highest"]
    header += ["samples of a large request", "peak MiB"]
    lines = [
        [
            family,
            str(of["single_request"]["samples"]),
            *(f"{of['single_request'][name]:.4f}" for name in ("direct_seconds", "served_seconds")),
            *_ratio(of["single_request"]),
            str(of["memory_batch"]),
            _memory(of["memory"]),
        ]
        for family, of in figures.items()
    ]
    yield ReportTable("batcher: a request without others, and memory beyond the weights", header, lines)


TABLES = {"training": _training, "sampling": _sampling, "batching": _batching}


def _ratio(of: Mapping[str, Any]) -> list[str]:
    return [f"{of[name]:.3f}" for name in ("ratio", "ratio_lowest", "ratio_highest")]


def _syncs(side: Mapping[str, Any]) -> str:
    each = side["host_syncs"]["each"]
    return side["host_syncs"]["note"] if each is None else f"{each:.1f}"


def _memory(peak: Mapping[str, float]) -> str:
    if "allocated_mib" in peak:
        return f"{peak['allocated_mib']:,.0f} ({peak['reserved_mib']:,.0f} reserved)"
    return f"{peak['process_peak_mib']:,.0f} (whole process)"
